"""Where checkpoints of XLM-RoBERTa-XL come from, and how a config follows from what they tell."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from xlcore.config import Config
from xlcore.errors import ConfigError
from xlcore.families.xlm_roberta_xl import RELEASED, XLMRobertaXLConfig, ties
from xlcore.heads import Head
from xlcore.inert import HERE, Placeholder, placeholder
from xlcore.maps.fairseq import VERSION, fairseq, fused, in_parts
from xlcore.maps.spelling import keras_paths, unwrapped, without_model
from xlcore.maps.xlm_roberta_xl import HF, HF_TF, hf, plain_hf, written_hf
from xlcore.origin import Derived, Keys, Origin, Seen, canonical_shapes, numbered, require, settle
from xlcore.tokenizers.fairseq_files import MODEL_FILE, SYMBOLS, check_files, dictionary
from xlcore.weightmap import WeightMap

MASKED, TEXTS, BODY = "XLMRobertaXLForMaskedLM", "XLMRobertaXLForSequenceClassification", "XLMRobertaXLModel"

# ------------------------------------------------------------------------------------------------ deriving a config

UNTOLD = {key: XLMRobertaXLConfig.fields[key].default for key in ("hidden_act", "layer_norm_eps", "pad_token_id")}


def sizes_of(names: WeightMap, seen: Seen, told: Keys) -> dict[str, Any]:
    """Return what the shapes tell; `told` is what is known beside them."""
    found = canonical_shapes(names, seen.shapes)
    words, places = found.get("embedding.weight", ()), found.get("embedding_of_positions.weight", ())
    if len(words) != 2 or len(places) != 2:
        raise ConfigError(f"{seen.where}: a config must be there or follow from the embeddings, got neither")
    keys: dict[str, Any] = {
        "vocab_size": words[0],
        "hidden_size": words[1],
        "max_position_embeddings": places[0],
        "num_hidden_layers": len(numbered(found, "blocks.", ".attention_norm.weight")),
    }
    if wide := found.get("blocks.0.feed_forward.inner.weight"):
        keys["intermediate_size"] = wide[0]
    if kinds := found.get("embedding_of_types.weight"):
        keys["type_vocab_size"] = kinds[0]
    if "blocks.0.cross_attention_norm.weight" in found:
        keys |= {"is_decoder": True, "add_cross_attention": True}
    if distances := found.get("blocks.0.attention.distances.weight"):
        keys["num_attention_heads"] = words[1] // distances[1]
    head = head_of(names, seen)
    if head == BODY:
        keys["add_pooling_layer"] = "pooler.weight" in found
    if head in (TEXTS, "XLMRobertaXLForTokenClassification"):
        keys["num_labels"] = found["classifier.score.bias" if head == TEXTS else "classifier.bias"][0]
    if pruned := _pruned(found, keys, told.get("num_attention_heads", keys.get("num_attention_heads"))):
        keys["pruned_heads"] = pruned
    return keys


def _pruned(found: Mapping[str, tuple[int, ...]], keys: Keys, heads: Any) -> dict[int, list[int]]:
    """Return the last heads of each layer for as many as are missing: which they were, nothing tells or needs."""
    size = keys["hidden_size"]
    if not isinstance(heads, int) or heads < 1 or size % heads:
        return {}
    kept = [found[f"blocks.{layer}.attention.query.weight"][0] * heads // size for layer in range(_layers(keys))]
    return {layer: list(range(count, heads)) for layer, count in enumerate(kept) if count < heads}


def _layers(keys: Keys) -> int:
    layers: int = keys["num_hidden_layers"]
    return layers


def head_of(names: WeightMap, seen: Seen) -> str:
    """Return the class of the model that the tensors make; of several heads, the one that was trained last."""
    found = canonical_shapes(names, seen.shapes)
    if "classifier.score.weight" in found:
        return TEXTS
    if "classifier.weight" in found:
        return f"XLMRobertaXLFor{'MultipleChoice' if 'pooler.weight' in found else 'TokenClassification'}"
    if "spans.weight" in found:
        return "XLMRobertaXLForQuestionAnswering"
    return MASKED if "transform.inner.weight" in found else BODY


def _settled(names: WeightMap, seen: Seen, *sources: tuple[str, Keys]) -> Derived:
    told = {key: value for _, keys in reversed(sources) for key, value in keys.items()} | dict(seen.given)
    sizes = sizes_of(names, seen, told)
    known = "num_attention_heads" in told or "num_attention_heads" in sizes
    width = f"the released models of width {sizes['hidden_size']}"
    heads = [] if known else [(width, _heads(seen, sizes))]
    return settle(seen, UNTOLD, ("the shapes of the tensors", sizes), *sources, *heads)


def _heads(seen: Seen, keys: Keys) -> dict[str, Any]:
    """Return the number of heads of the released models that are as wide; no tensor tells it."""
    known = [XLMRobertaXLConfig(**each) for each in RELEASED.values()]
    heads = {config.num_attention_heads for config in known if config.hidden_size == keys["hidden_size"]}
    if len(heads) == 1:
        return {"num_attention_heads": heads.pop()}
    what = "num_attention_heads must be told, got tensors that do not"
    raise ConfigError(f"{seen.where}: {what}; give the key 'num_attention_heads' or a config.json")


def derive_hf(seen: Seen) -> Derived:
    """Derive the config of a file that lost its config.json."""
    return _by_distance(HF, seen)


def derive_hf_tf(seen: Seen) -> Derived:
    """Derive the config of a `tf_model.h5` that lost its config.json."""
    return _by_distance(HF_TF, seen)


def _by_distance(names: WeightMap, seen: Seen) -> Derived:
    key = "position_embedding_type"
    if key not in seen.given and "blocks.0.attention.distances.weight" in canonical_shapes(names, seen.shapes):
        what = f"{key} must be told where there are distances, got tensors alone"
        raise ConfigError(f"{seen.where}: {what}; give the key, 'relative_key' or 'relative_key_query'")
    return _settled(names, seen)


# ------------------------------------------------------------------------------------------------- the authors' files

# fairseq's arguments and our keys.
ARGUMENTS = {
    "encoder_attention_heads": "num_attention_heads",
    "activation_fn": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "ffn_output_dropout": "ffn_output_dropout",
    "attention_dropout": "attention_probs_dropout_prob",
    "pooler_dropout": "classifier_dropout",
}
SIZES = {
    "encoder_embed_dim": "hidden_size",
    "encoder_layers": "num_hidden_layers",
    "encoder_ffn_embed_dim": "intermediate_size",
}
# What is the same in every model of the family; another value is another family's, or one that is not built here.
ALWAYS = {
    "encoder_normalize_before": True,
    "layernorm_embedding": False,
    "activation_fn": "gelu",
    "pooler_activation_fn": "tanh",
    "no_token_positional_embeddings": False,
}
AUTHORS = {"layer_norm_eps": 1e-5, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_ONE_HEAD = re.compile(r"classification_heads\.([^.]+)\.dense\.weight")


def derive_fairseq(seen: Seen) -> Derived:
    """Derive the config of fairseq's file from the arguments in it."""
    known = arguments(seen.extras)
    for key, value in ALWAYS.items():
        if key in known and known[key] != value:
            raise ConfigError(f"{seen.where}: {key} must be {value!r}, got {known[key]!r}, which is not built here")
    told = {name: known[key] for key, name in (ARGUMENTS | SIZES).items() if known.get(key) is not None}
    if "dropout" in known:  # they drop after a feed-forward layer, too
        told.setdefault("ffn_output_dropout", known["dropout"])
    if isinstance(known.get("max_positions"), int):
        told["max_position_embeddings"] = known["max_positions"] + AUTHORS["pad_token_id"] + 1
    if "untie_weights_roberta" in known:
        told["tie_word_embeddings"] = not known["untie_weights_roberta"]
    heads = [match[1] for match in map(_ONE_HEAD.fullmatch, seen.shapes) if match]
    chosen = seen.given.get("finetuning_task", heads[0] if heads else None)
    names = (fused if _is_fused(seen) else fairseq)(str(chosen))
    told |= {"finetuning_task": chosen} if chosen else {}
    derived = _settled(names, seen, ("the arguments in the file", told), ("the authors' code", AUTHORS))
    if len(heads) > 1:
        others = ", ".join(name for name in heads if name != chosen)
        derived.notes.append(f"took the classification head {chosen!r}; the key finetuning_task takes {others}")
    if known.get("activation_dropout"):
        derived.notes.append(f"activation_dropout={known['activation_dropout']} of the training is not built here")
    return derived


def arguments(extras: Keys) -> dict[str, Any]:
    """Return the arguments of the model: those of the run in older files, those of the model in a config's place."""
    settings = _plain(extras.get("cfg"))
    found = _plain(settings.get("model")) or _plain(extras.get("args"))
    return {key: _value(value) for key, value in found.items()}


def _plain(value: Any) -> dict[str, Any]:
    """Return what a dictionary, a namespace or a config of omegaconf holds; nothing for anything else."""
    if isinstance(value, Placeholder):
        held = value.attributes
        return _plain(held["_content"]) if "_content" in held else held
    return value if isinstance(value, dict) else {}


def _value(value: Any) -> Any:
    """Return the value in a node of omegaconf; another as it is."""
    return value.attributes.get("_val") if isinstance(value, Placeholder) else value


def plain_fairseq(names: Iterable[str]) -> dict[str, str]:
    """Bring the names of older files to those of today, as fairseq does when it loads them."""
    found = {}
    for name, plain in unwrapped(names).items():
        plain = re.sub(r"^decoder\.", "encoder.", plain)
        plain = re.sub(r"(\.layers\.\d+)\.layer_norms\.0\.", r"\1.self_attn_layer_norm.", plain)
        found[name] = re.sub(r"(\.layers\.\d+)\.layer_norms\.1\.", r"\1.final_layer_norm.", plain)
    return found


def head_of_fairseq(seen: Seen, config: Config) -> str:
    """Return the class of the model that fairseq's tensors make."""
    name = getattr(config, "finetuning_task", None)
    return head_of((fused if _is_fused(seen) else fairseq)(str(name)), seen)


def extras_fairseq(config: Any, head: Head, file: Callable[[str], bytes | None]) -> dict[str, Any]:
    """Return what lies beside the tensors in fairseq's file: arguments, and what its loader asks for."""
    known: dict[str, Any] = {
        "arch": "roberta_prenorm",
        "task": "multilingual_masked_lm",
        "criterion": "masked_lm",
        "data": "",
    }
    known |= {"max_positions": config.max_position_embeddings - config.pad_token_id - 1}
    known["untie_weights_roberta"] = not config.tie_word_embeddings
    known |= {key: getattr(config, name) for key, name in (ARGUMENTS | SIZES).items()}
    known["pooler_dropout"] = config.label_dropout
    known |= ALWAYS | {"activation_dropout": 0.0, "encoder_layerdrop": 0.0, "encoder_layers_to_keep": None}
    known |= {"tokens_per_sample": known["max_positions"], "sample_break_mode": "complete", "bpe": "sentencepiece"}
    run: dict[str, Any] = {"criterion_name": "MaskedLmLoss", "optimizer_name": "FP16Optimizer", "num_updates": 0}
    run["lr_scheduler_state"] = {"best": None}
    place = {"epoch": 1, "iterations_in_epoch": 0, "shuffle": True}
    return {
        "args": placeholder("argparse", "Namespace", known),
        "model": HERE,
        "optimizer_history": [run],
        "extra_state": {"train_iterator": place},
    }


def files_fairseq(config: Any, head: Head, file: Callable[[str], bytes | None]) -> dict[str, bytes]:
    """Return the symbols of a dictionary where only a tokenizer's model lies there."""
    model = file(MODEL_FILE)
    if model is None or file(SYMBOLS) is not None:
        return {}
    return {SYMBOLS: dictionary(model, config.vocab_size, MODEL_FILE)}


def check_fairseq(config: Any, head: Head) -> None:
    """Refuse what fairseq's classes cannot be."""
    where = "torch-original"
    if head.name not in (MASKED, TEXTS, BODY):
        raise ConfigError(f"{where}: head must be {MASKED} or {TEXTS} there, got {head.name}; choose another format")
    require(where, config, **AUTHORS, hidden_act="gelu", type_vocab_size=1, position_embedding_type="absolute")
    require(where, config, is_decoder=False, add_cross_attention=False, pruned_heads={})
    if head.name == BODY:
        require(where, config, add_pooling_layer=False)


# ------------------------------------------------------------------------------------------------------- the origins


def untied(config: XLMRobertaXLConfig, names: Iterable[str]) -> XLMRobertaXLConfig:
    """Return the config under which the scores of words have a table of their own; their bias is always one."""
    return config.copy(tie_word_embeddings=False) if "lm_head.weight" in set(names) else config


def _has(seen: Seen, pattern: str) -> bool:
    return any(re.match(pattern, name) for name in seen.shapes)


def _is_fused(seen: Seen) -> bool:
    return _has(seen, r"encoder\.sentence_encoder\.layers\.\d+\.self_attn\.in_proj_weight")


def _is_fairseq(seen: Seen) -> bool:
    return _has(seen, r"encoder\.sentence_encoder\.layers\.\d+\.self_attn\.q_proj\.weight")


def _copies(config: Any, head: Head) -> list[str]:
    return list(ties(config))


def _copies_fairseq(config: Any, head: Head) -> list[str]:
    return [alias for alias in ties(config) if alias == "lm_head.weight"]


def plain_hf_tf(names: Iterable[str]) -> dict[str, str]:
    """Return paths within the model; what the layer of word scores holds of the embeddings stays behind its name."""
    split = without_model(names, {"roberta", "lm_head", "classifier", "qa_outputs"})
    again = "roberta/embeddings/"
    return {
        name: f"lm_head/{path}" if group == "lm_head" and path.startswith(again) else path
        for name, (group, path) in split.items()
    }


def _check_hf_tf(config: Any, head: Head) -> None:
    require("hf-tf", config, pruned_heads={})
    if head.kind in ("masked_lm", "decoder_lm"):
        require("hf-tf", config, tie_word_embeddings=True)


AGAIN = {r"lm_head/roberta/embeddings/.+": "the embeddings once more, as TensorFlow's layer of scores holds them"}
HF_TF_READ = HF_TF.but(ignored=AGAIN)
VOCABULARY = (MODEL_FILE, SYMBOLS)

_FAIRSEQ: dict[str, Any] = {
    "derive": derive_fairseq,
    "head": head_of_fairseq,
    "plain": plain_fairseq,
    "check": check_fairseq,
    "copies": _copies_fairseq,
    "spared": lambda config, head: [("embedding_of_types.weight",)],
    "only_spared": True,
    "constants": lambda config, head: {VERSION: np.array([3.0])},
    "extras": extras_fairseq,
    "files": files_fairseq,
    "fits": check_files,
    "untied": untied,
    "unties": True,
    "file": "model.pt",
    "carried": VOCABULARY,
}


def _of(config: Any) -> str:
    return str(getattr(config, "finetuning_task", None) or "sentence_classification_head")


ORIGINS = (
    Origin(
        "hf", "xlm-roberta-xl", ("safetensors", "torch"), HF, hf,
        recognise=lambda seen: _has(seen, r"(roberta\.)?encoder\.layer\.\d+\.attention\.self_attn_layer_norm\."),
        derive=derive_hf,
        head=lambda seen, config: head_of(HF, seen),
        plain=plain_hf,
        written=written_hf,
        copies=_copies,
        untied=untied,
        unties=True,
        carried=VOCABULARY,
        fits=check_files,
    ),
    Origin(
        "hf-tf", "xlm-roberta-xl", ("hdf5",), HF_TF_READ, lambda config, head: HF_TF_READ,
        recognise=lambda seen: _has(seen, r"roberta/encoder/layer_\._\d+/attention/self_attn_layer_norm/"),
        derive=derive_hf_tf,
        head=lambda seen, config: head_of(HF_TF_READ, seen),
        plain=plain_hf_tf,
        written=keras_paths,
        check=_check_hf_tf,
        carried=VOCABULARY,
        fits=check_files,
    ),
    Origin(
        "torch-original", "xlm-roberta-xl", ("torch",), fairseq("sentence_classification_head"),
        lambda config, head: fairseq(_of(config)),
        recognise=_is_fairseq,
        parted=in_parts,
        **_FAIRSEQ,
    ),
    Origin(
        "torch-original-fused", "xlm-roberta-xl", ("torch",), fused("sentence_classification_head"),
        lambda config, head: fused(_of(config)),
        recognise=_is_fused,
        **_FAIRSEQ,
    ),
)  # fmt: skip
