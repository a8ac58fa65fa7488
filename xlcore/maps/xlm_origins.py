"""Where checkpoints of XLM come from, and how a config follows from what they tell."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from xlcore.adaptive import bins
from xlcore.config import Config
from xlcore.errors import ConfigError
from xlcore.families.xlm import RELEASED, XLMConfig, ties
from xlcore.heads import Head
from xlcore.inert import HERE, Placeholder
from xlcore.maps.spelling import plain_with_copy, unwrapped, written_with_copy
from xlcore.maps.xlm import COPY, HF, HF_TF, MOST_CLUSTERS, PTH, PTH_DECODER, TABLE, hf, pth
from xlcore.origin import Derived, Keys, Origin, Seen, bare_body, canonical_shapes, numbered, require, settle
from xlcore.tokenizers.xlm_files import RESERVED, from_dictionary, to_dictionary
from xlcore.weightmap import WeightMap

LM = "XLMWithLMHeadModel"
HALVES = ("encoder", "decoder")
_START = re.compile(r"(decoder\.)?(transformer\.)?")


def plain_pth(names: Iterable[str]) -> dict[str, str]:
    """Name the authors' tensors as HuggingFace does, those of a decoder behind `decoder.`.

    A translation model's file has both halves; a file of one model has it without a name, and a decoder is known by
    its attention to an encoder.
    """
    bare = {name: _bare(name) for name in names}
    alone = "decoder" if any("encoder_attn." in name for _, name in bare.values()) else "encoder"
    found = {}
    for name, (half, rest) in bare.items():
        start = "decoder." if (half or alone) == "decoder" else ""
        found[name] = start + (rest if rest.startswith("pred_layer.") else f"transformer.{rest}")
    return found


def _bare(name: str) -> tuple[str, str]:
    """Return the half that a name begins with, if it does, and the rest without wrappers."""
    half, dot, rest = name.partition(".")
    if not dot or half not in HALVES:
        half, rest = "", name
    return half, unwrapped([rest])[rest]


# ------------------------------------------------------------------------------------------------ deriving a config

UNTOLD = {key: XLMConfig.fields[key].default for key in ("gelu_activation", "causal", "layer_norm_eps")}
KINDS = {
    "start": "XLMForQuestionAnswering",
    "spans": "XLMForQuestionAnsweringSimple",
    "classifier": "XLMForTokenClassification",
    "score": "XLMForMultipleChoice",
    "sequence_summary": "XLMForSequenceClassification",
    "lm_head": LM,
    "crit": LM,
}
# The authors' parameters and our keys, and what is kept of the training.
MODEL = {
    "n_words": "vocab_size", "pad_index": "pad_token_id", "bos_index": "bos_token_id", "eos_index": "eos_token_id",
    "share_inout_emb": "tie_word_embeddings",
} | {
    key: key
    for key in (
        "emb_dim", "n_layers", "n_heads", "dropout", "attention_dropout", "gelu_activation", "sinusoidal_embeddings",
        "asm", "n_langs", "use_lang_emb", "unk_index", "mask_index",
    )
}  # fmt: skip
KEPT = ("lgs", "id2lang", "lang2id", "clm_steps", "mlm_steps")


def sizes_of(names: WeightMap, seen: Seen, told: Keys) -> dict[str, Any]:
    """Return what the shapes tell; `told` is what is known beside them."""
    found = canonical_shapes(names, seen.shapes)
    if "embedding.weight" not in found or "embedding_of_positions.weight" not in found:
        raise ConfigError(f"{seen.where}: a config must be there or follow from the embeddings, got neither")
    keys: dict[str, Any] = {
        "vocab_size": found["embedding.weight"][0],
        "emb_dim": found["embedding.weight"][1],
        "n_layers": len(numbered(found, "blocks.", ".attention_norm.weight")),
        "max_position_embeddings": found["embedding_of_positions.weight"][0],
    }
    if languages := found.get("embedding_of_languages.weight"):
        keys["n_langs"] = languages[0]
    if any(name.endswith(".cross_attention_norm.weight") for name in found):
        keys |= {"is_encoder": False, "causal": True}
    if "score.weight" in found:
        keys |= {
            "num_labels": found["score.weight"][1],
            "summary_use_proj": "sequence_summary.projection.bias" in found,
        }
    elif labels := found.get("sequence_summary.projection.bias", found.get("classifier.bias", ())):
        keys["num_labels"] = labels[0]
    if tails := numbered(found, "crit.bins.", ".projection"):
        keys |= _clusters([found[f"crit.bins.{number}.weight"][0] for number in tails], keys["vocab_size"])
    if pruned := _pruned(found, keys, told):
        keys["pruned_heads"] = pruned
    return keys


def _clusters(rows: list[int], size: int) -> dict[str, Any]:
    """Return the borders of the clusters of an adaptive softmax."""
    return {"asm": True, "asm_cutoffs": [size - sum(rows[number:]) for number in range(len(rows))]}


def _pruned(found: Mapping[str, tuple[int, ...]], keys: Keys, told: Keys) -> dict[int, list[int]]:
    """Return the last heads of each layer for as many as are missing: which they were, nothing tells or needs."""
    heads = told.get("n_heads")
    if not isinstance(heads, int) or heads < 1 or keys["emb_dim"] % heads:
        return {}
    rows = [found[f"blocks.{layer}.attention.query.weight"][0] for layer in range(keys["n_layers"])]
    kept = [count * heads // keys["emb_dim"] for count in rows]
    return {layer: list(range(count, heads)) for layer, count in enumerate(kept) if count < heads}


def _widths(names: WeightMap, seen: Seen, keys: Keys) -> dict[str, Any]:
    """Return by how much each cluster is narrower than the one before, if one number makes all widths."""
    found = canonical_shapes(names, seen.shapes)
    widths = [found[f"crit.bins.{number}.projection"][1] for number in numbered(found, "crit.bins.", ".projection")]
    if not widths or not all(widths):
        return {}
    divisor = keys["emb_dim"] / widths[0]
    made = bins(keys["vocab_size"], keys["emb_dim"], keys["asm_cutoffs"], divisor)
    return {"asm_div_value": divisor} if [width for _, _, width in made[1:]] == widths else {}


def _heads(seen: Seen, keys: Keys) -> dict[str, Any]:
    """Return the number of heads of the released models that are as wide; no tensor tells it."""
    known = [XLMConfig(**each) for each in RELEASED.values()]
    heads = {config.n_heads for config in known if config.emb_dim == keys["emb_dim"]}
    if len(heads) == 1:
        return {"n_heads": heads.pop()}
    what = "n_heads must be told"
    raise ConfigError(f"{seen.where}: {what}, got tensors that do not; give the key 'n_heads' or a config.json")


def _settled(names: WeightMap, seen: Seen, *sources: tuple[str, Keys]) -> Derived:
    told = {key: value for _, keys in reversed(sources) for key, value in keys.items()} | dict(seen.given)
    sizes = sizes_of(names, seen, told)
    width = f"the released models of width {sizes['emb_dim']}"
    return settle(
        seen,
        UNTOLD,
        ("the shapes of the tensors", sizes),
        *sources,
        ("the widths of the clusters", _widths(names, seen, sizes)),
        *([] if "n_heads" in told else [(width, _heads(seen, sizes))]),
    )


def head_of(names: WeightMap, seen: Seen) -> str:
    """Return the class of the model that the tensors make."""
    parts = {name.split(".")[0] for name in canonical_shapes(names, seen.shapes)}
    return next((name for part, name in KINDS.items() if part in parts), "XLMModel")


def derive_hf(seen: Seen) -> Derived:
    """Derive the config of a file that lost its config.json."""
    return _settled(HF, seen)


def derive_hf_tf(seen: Seen) -> Derived:
    """Derive the config of a `tf_model.h5` that lost its config.json."""
    return _settled(HF_TF, seen)


def derive_pth(seen: Seen) -> Derived:
    """Derive the config of an original from its parameters; of a translation model's halves the encoder is taken."""
    if memories := [name for name in seen.names.values() if "memories." in name]:
        what = "layers must be attention and feed-forward"
        raise ConfigError(f"{seen.where}: {what}, got a product-key memory, {memories[0]!r}, which is not built here")
    known, decodes = _parameters(seen), _decodes(seen)
    keys = {name: known[key] for key, name in MODEL.items() if known.get(key) is not None}
    keys |= {key: known[key] for key in ("asm_div_value",) if known.get("asm") is True and key in known}
    keys |= {key: _as_json(known[key]) for key in KEPT if known.get(key)}
    causal, trained = _on_next_words(known), "clm_steps" in known and not decodes
    derived = _settled(
        PTH_DECODER if decodes else PTH,
        seen,
        ("the parameters in the file", keys),
        (f"how it was trained: {'' if causal else 'not '}on next words only", {"causal": causal} if trained else {}),
        ("the authors' code", {"layer_norm_eps": 1e-12, "is_encoder": not decodes}),
    )
    if {_bare(name)[0] for name in seen.names.values()} >= set(HALVES):
        taken, other = HALVES[::-1] if decodes else HALVES
        derived.notes.append(f"took the {taken}; is_encoder={decodes} takes the {other}")
    return derived


def _on_next_words(known: Keys) -> bool:
    """Tell whether a model was trained on next words only; HuggingFace's converter forgets it."""
    return bool(known.get("clm_steps")) and not known.get("mlm_steps")


def _parameters(seen: Seen) -> Keys:
    """Return the parameters that the file holds: a dictionary, or the namespace that it was made of."""
    held = seen.extras.get("params")
    held = held.attributes if isinstance(held, Placeholder) else held
    return held if isinstance(held, dict) else {}


def _decodes(seen: Seen) -> bool:
    """Tell whether the decoder is meant: it is asked for, or alone there."""
    there = {name.startswith("decoder.") for name in seen.shapes}
    decodes = not seen.given.get("is_encoder", False in there)
    if decodes not in there:
        what = f"is_encoder must be {decodes} for a file with {'an encoder' if decodes else 'a decoder'} only"
        raise ConfigError(f"{seen.where}: {what}, got {not decodes}")
    return decodes


def _as_json(value: Any) -> Any:
    """Return a value as it comes back out of a config.json; what cannot be in one the config will refuse."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError):
        return value


# ------------------------------------------------------------------------------------------------- the authors' files


def tokenizer_files(extras: Keys, where: str) -> dict[str, bytes]:
    """Return the files of a tokenizer that follow from an original's dictionary.

    Texts were lower-cased before if no word of the dictionary has a capital letter.
    """
    words, known = extras.get("dico_word2id"), extras.get("params")
    if not isinstance(words, dict):
        return {}
    vocabulary = from_dictionary(words, where)
    lowered = all(word == word.lower() for word, index in words.items() if index >= len(RESERVED))
    settings: dict[str, Any] = {
        "tokenizer_class": "XLMTokenizer",
        "do_lowercase_and_remove_accent": lowered,
        "split_unknown": True,  # as the authors' program does
    }
    if isinstance(known, dict) and _is_languages(known.get("id2lang")):
        settings["id2lang"] = {str(number): name for number, name in known["id2lang"].items()}
        settings["lang2id"] = {name: number for number, name in known["id2lang"].items()}
    files = {"vocab.json": dict(sorted(vocabulary.items())), "tokenizer_config.json": settings}
    return {name: (json.dumps(keys, indent=2, ensure_ascii=False) + "\n").encode() for name, keys in files.items()}


def _is_languages(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(k, int) and isinstance(v, str) for k, v in value.items())


def extras_pth(config: Any, head: Head, file: Callable[[str], bytes | None]) -> dict[str, Any]:
    """Return what lies beside the tensors in an original: the parameters, and the dictionary if there is one."""
    languages = _languages(config)
    names = list(languages.values())
    steps = [(name, None) for name in names]
    known = {key: getattr(config, name) for key, name in MODEL.items()}
    known |= {key: getattr(config, key) for key in ("asm_cutoffs", "asm_div_value") if config.asm}
    known |= {"encoder_only": config.is_encoder, "use_memory": False, "max_vocab": -1, "min_count": 0}
    known |= {"id2lang": languages, "lang2id": {name: number for number, name in languages.items()}}
    known |= {"langs": names, "lgs": "-".join(names)}
    known |= {"clm_steps": steps if config.causal else [], "mlm_steps": [] if config.causal else steps}
    told = {key: getattr(config, key, []) for key in ("clm_steps", "mlm_steps")}
    known |= told if any(told.values()) and config.causal == _on_next_words(told) else {}
    known["share_inout_emb"] = config.tie_word_embeddings and not config.asm
    vocabulary = file("vocab.json")
    dictionary = {} if vocabulary is None else _dictionary(vocabulary, config.vocab_size)
    return {"model" if config.is_encoder else "decoder": HERE, **dictionary, "params": known}


def _languages(config: Any) -> dict[int, str]:
    """Return the languages by number; by their number as a name where they have none."""
    known = getattr(config, "id2lang", None)
    known = known if isinstance(known, dict) else {}
    names = {int(key): str(name) for key, name in known.items() if str(key).isdecimal()}
    whole = sorted(names) == list(range(config.n_langs))
    return dict(sorted(names.items())) if whole else {number: str(number) for number in range(config.n_langs)}


def _dictionary(vocabulary: bytes, size: int) -> dict[str, Any]:
    """Return an original's dictionary for a `vocab.json`, which has no counts: 1 for each word, 0 for reserved ones."""
    words = to_dictionary(vocabulary, size)
    return {
        "dico_id2word": words,
        "dico_word2id": {word: index for index, word in words.items()},
        "dico_counts": {word: int(index >= len(RESERVED)) for index, word in words.items()},
    }


# ------------------------------------------------------------------------------------------------------- the origins


def untied(config: XLMConfig, names: Iterable[str]) -> XLMConfig:
    """Return the config under which the scores of words have a table of their own."""
    return config.copy(tie_word_embeddings=False)


def _is_pth(seen: Seen) -> bool:
    """Tell whether the body has no prefix where its head or a dictionary is there, or one that tells its half."""
    bare = [_bare(name) for name in seen.names.values()]
    if not any(re.match(r"attentions\.\d+\.q_lin\.", name) for _, name in bare):
        return False
    beside = any(name.startswith("pred_layer.") for _, name in bare) or "dico_word2id" in seen.extras
    return beside or any(half for half, _ in bare)


def _is_hf(seen: Seen) -> bool:
    return _has(seen, r"(transformer\.)?attentions\.\d+\.q_lin\.") and not _is_pth(seen)


def _has(seen: Seen, pattern: str) -> bool:
    return any(re.match(pattern, name) for name in seen.shapes)


def _copies(config: Config, head: Head) -> list[str]:
    return list(ties(config))  # type: ignore[arg-type]  # an XLMConfig


def check_hf(config: Any, head: Head) -> None:
    """Refuse more clusters than the map has lines for."""
    if config.asm and len(config.asm_cutoffs) > MOST_CLUSTERS:
        raise ConfigError(f"hf: asm_cutoffs must be at most {MOST_CLUSTERS}, got {len(config.asm_cutoffs)}")


def _check_hf_tf(config: Any, head: Head) -> None:
    where = "hf-tf"
    if head.kind == "beam_question_answering":
        raise ConfigError(f"{where}: head must be one that it has, got {head.name}; choose another format")
    require(where, config, is_encoder=True, asm=False, sinusoidal_embeddings=False, pruned_heads={})
    if head.name == LM:
        require(where, config, tie_word_embeddings=True)


def _check_pth(config: Any, head: Head) -> None:
    where = "torch-original"
    if head.name != LM:
        raise ConfigError(f"{where}: head must be {LM} there, got {head.name}; choose another format")
    check_hf(config, head)
    require(where, config, layer_norm_eps=1e-12, max_position_embeddings=512, pruned_heads={}, hide_padding=False)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if not isinstance(getattr(config, key), int):
            raise ConfigError(f"{where}: {key} must be one id there, got {getattr(config, key)}; choose another format")


ROOTS = {row.theirs.split("/")[0] for row in HF_TF.rows}
VOCABULARY = ("vocab.json", "merges.txt")

ORIGINS = (
    Origin(
        "hf", "xlm", ("safetensors", "torch"), HF, hf,
        recognise=_is_hf,
        derive=derive_hf,
        head=lambda seen, config: head_of(HF, seen),
        plain=unwrapped,
        written=bare_body("transformer."),
        check=check_hf,
        copies=_copies,
        untied=untied,
        unties=True,
        carried=VOCABULARY,
    ),
    Origin(
        "hf-tf", "xlm", ("hdf5",), HF_TF, lambda config, head: HF_TF,
        recognise=lambda seen: _has(seen, r"transformer/attentions_\._\d+/q_lin/"),
        derive=derive_hf_tf,
        head=lambda seen, config: head_of(HF_TF, seen),
        plain=lambda names: plain_with_copy(names, ROOTS, TABLE, COPY),
        written=lambda names, config, head: written_with_copy(names, config, head, TABLE, COPY),
        check=_check_hf_tf,
        copies=_copies,
        untied=untied,
        unties=True,
        carried=VOCABULARY,
    ),
    Origin(
        "torch-original", "xlm", ("torch",), PTH, pth,
        recognise=_is_pth,
        derive=derive_pth,
        head=lambda seen, config: head_of(PTH if config.is_encoder else PTH_DECODER, seen),
        plain=plain_pth,
        written=lambda names, config, head: {name: _START.sub("", name, count=1) for name in names},
        check=_check_pth,
        copies=_copies,
        extras=extras_pth,
        made=tokenizer_files,
        renamed={r"codes([._-].*)?": "merges.txt"},
        untied=untied,
        unties=True,
        file="model.pth",
        carried=VOCABULARY,
    ),
)  # fmt: skip
