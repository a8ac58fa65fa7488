"""Where checkpoints of XLNet come from, and how a config follows from their tensors and what lies beside."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from xlcore.config import Config
from xlcore.errors import ConfigError
from xlcore.families.xlnet import XLNetConfig, ties
from xlcore.heads import Head
from xlcore.maps.spelling import plain_with_copy, unwrapped, with_averages, written_with_copy
from xlcore.maps.xlnet import HF, HF_TF, TF1, tf1
from xlcore.origin import Derived, Keys, Origin, Seen, bare_body, canonical_shapes, numbered, require, settle
from xlcore.weightmap import WeightMap

_LOGIT = re.compile(r"model/(classification|regression)_([^/]+)/logit/(kernel|bias)")


def plain_tf1(names: Iterable[str]) -> dict[str, str]:
    """Take the name of the task out of the names of its scores, and averages in place of what they average."""
    return {name: _LOGIT.sub(r"model/task/logit/\3", plain) for name, plain in with_averages(names).items()}


def written_tf1(names: Iterable[str], config: Any, head: Head) -> dict[str, str]:
    """Put the task into the names of its scores."""
    kind = "regression" if config.num_labels == 1 else "classification"
    task = getattr(config, "finetuning_task", None) or "task"
    return {name: name.replace("model/task/", f"model/{kind}_{task}/") for name in names}


# ------------------------------------------------------------------------------------------------ deriving a config

UNTOLD = {key: XLNetConfig.fields[key].default for key in ("ff_activation", "attn_type", "mem_len", "clamp_len")}
HEADS = {
    "start": "XLNetForQuestionAnswering",
    "spans": "XLNetForQuestionAnsweringSimple",
    "classifier": "XLNetForTokenClassification",
    "score": "XLNetForSequenceClassification",
    "lm_head": "XLNetLMHeadModel",
}
# The authors' flags and our keys: those of every run, and those of pretraining.
FLAGS = {
    "dropout": "dropout", "dropatt": "dropatt", "init_std": "initializer_range", "clamp_len": "clamp_len",
    "summary_type": "summary_type", "use_summ_proj": "summary_use_proj", "start_n_top": "start_n_top",
    "end_n_top": "end_n_top",
}  # fmt: skip
PRETRAINING = {key: key for key in ("mem_len", "reuse_len", "bi_data", "same_length")}
SIZES = {"n_token": "vocab_size"} | {
    key: key for key in ("n_layer", "d_model", "n_head", "d_head", "d_inner", "ff_activation", "untie_r")
}
GELU = {"gelu": "gelu_new"}  # the authors' is the one by tanh


def sizes_of(names: WeightMap, seen: Seen) -> dict[str, Any]:
    """Return what the shapes tell."""
    found = canonical_shapes(names, seen.shapes)
    layers = numbered(found, "blocks.", ".attention_norm.weight")
    if "embedding.weight" not in found or not layers:
        raise ConfigError(f"{seen.where}: a config must be there or follow from embeddings and layers, got neither")
    bias = found.get("blocks.{i}.attention.content_bias") or found.get("blocks.0.attention.content_bias", (1, 1))
    keys = {
        "vocab_size": found["embedding.weight"][0],
        "d_model": found["embedding.weight"][1],
        "n_layer": len(layers),
        "n_head": bias[-2],
        "d_head": bias[-1],
        "d_inner": found["blocks.0.feed_forward.inner.bias"][0],
    }
    if "blocks.{i}.attention.content_bias" in found:
        keys["untie_r"] = len(bias) == 3
    if "score.bias" in found:
        keys["summary_use_proj"] = "sequence_summary.projection.weight" in found
    if labels := found.get("score.bias", found.get("classifier.bias", ())):
        keys["num_labels"] = labels[0]
    return keys


def head_of(names: WeightMap, seen: Seen) -> str:
    """Return the class of the model that the tensors make."""
    if "logits/dense/kernel" in seen.shapes:
        return "XLNetForMultipleChoice"
    parts = {name.split(".")[0] for name in canonical_shapes(names, seen.shapes)}
    return next((name for part, name in HEADS.items() if part in parts), "XLNetModel")


def derive_hf(seen: Seen) -> Derived:
    """Derive the config of a file that lost its config.json."""
    return settle(seen, UNTOLD, ("the shapes of the tensors", sizes_of(HF, seen)))


def derive_hf_tf(seen: Seen) -> Derived:
    """Derive the config of a `tf_model.h5` that lost its config.json."""
    return settle(seen, UNTOLD, ("the shapes of the tensors", sizes_of(HF_TF, seen)))


def derive_tf1(seen: Seen) -> Derived:
    """Derive the config of a model of the authors' TensorFlow: its activation, and what its task does."""
    pretrained = head_of(TF1, seen) in ("XLNetLMHeadModel", "XLNetModel")
    sizes = _from(seen.side.get("xlnet_config.json", {}), SIZES)
    flags = _from(seen.side.get("flags.json", {}), FLAGS | SIZES | (PRETRAINING if pretrained else {}))
    by_code: dict[str, Any] = {"ff_activation": "gelu_new", "layer_norm_eps": 1e-12, "attn_type": "bi", "mem_len": None}
    if not pretrained:
        by_code |= {"use_mems_eval": False, "bi_data": False}  # fine-tuning knows no memory
    if head_of(TF1, seen) == "XLNetForQuestionAnswering":
        by_code |= {"start_major": True, "soft_start": True, "answer_dropout": flags.get("dropout", 0.1)}
    return settle(
        seen,
        UNTOLD,
        ("the shapes of the tensors", sizes_of(TF1, seen)),
        ("xlnet_config.json", sizes),
        ("flags.json", flags),
        ("the names of the tensors", _task(seen)),
        ("the authors' TensorFlow", by_code),
    )


def _from(side: Keys, table: Mapping[str, str]) -> dict[str, Any]:
    keys = {table[key]: value for key, value in side.items() if key in table}
    if "ff_activation" in keys:
        keys["ff_activation"] = GELU.get(keys["ff_activation"], keys["ff_activation"])
    return {key: value for key, value in keys.items() if value is not None}


def _task(seen: Seen) -> dict[str, Any]:
    """Return the task whose scores the tensors are."""
    match = _LOGIT.match(seen.names.get("model/task/logit/kernel", ""))
    if not match:
        return {}
    kind = "regression" if match[1] == "regression" else "single_label_classification"
    return {"finetuning_task": match[2], "problem_type": kind}


# ------------------------------------------------------------------------------------------------------- the origins

ROOTS = {row.theirs.split("/")[0] for row in HF_TF.rows}
TABLE = "transformer/word_embedding/weight"


def untied(config: XLNetConfig, names: Iterable[str]) -> XLNetConfig:
    """Return the config under which the scores of words have a table of their own."""
    return config.copy(tie_word_embeddings=False)


def _has(seen: Seen, pattern: str) -> bool:
    return any(re.match(pattern, name) for name in seen.shapes)


def _copies(config: Any, head: Head) -> list[str]:
    return list(ties(config))


def _plain_hf_tf(names: Iterable[str]) -> dict[str, str]:
    return plain_with_copy(names, ROOTS, TABLE, "lm_loss/weight")


def _written_hf_tf(names: Iterable[str], config: Config, head: Head) -> dict[str, str]:
    return written_with_copy(names, config, head, TABLE, "lm_loss/weight")


def _check_hf_tf(config: Any, head: Head) -> None:
    where = "hf-tf"
    if head.kind == "beam_question_answering":
        raise ConfigError(f"{where}: head must be one that it has, got {head.name}; choose another format")
    if head.kind == "permutation_lm":
        require(where, config, tie_word_embeddings=True)


def _check_tf1(config: Any, head: Head) -> None:
    where = "tf1"
    if head.kind in ("token_classification", "question_answering"):
        raise ConfigError(f"{where}: head must be one of the authors', got {head.name}; choose another format")
    if config.ff_activation != "relu":
        require(where, config, ff_activation="gelu_new")
    require(where, config, layer_norm_eps=1e-12)


def _spared_tf1(config: Any, head: Head) -> list[list[str]]:
    """Return what fine-tuning leaves out, and what runs without segments do."""
    parts = ("segment_bias", "segment_embedding")
    segments = [f"blocks.{layer}.attention.{part}" for layer in range(config.n_layer) for part in parts]
    return [["mask_embedding"], segments]


def _side_tf1(config: Any, head: Head) -> dict[str, Keys]:
    sizes = {key: getattr(config, name) for key, name in SIZES.items()}
    activation = {name: key for key, name in GELU.items()}.get(config.ff_activation, config.ff_activation)
    flags = {key: getattr(config, name) for key, name in (FLAGS | PRETRAINING).items()}
    return {"xlnet_config.json": sizes | {"ff_activation": activation}, "flags.json": flags}


ORIGINS = (
    Origin(
        "hf", "xlnet", ("safetensors", "torch"), HF, lambda config, head: HF,
        recognise=lambda seen: _has(seen, r"(transformer\.)?layer\.\d+\.rel_attn\."),
        derive=derive_hf,
        head=lambda seen, config: head_of(HF, seen),
        plain=unwrapped,
        written=bare_body("transformer."),
        copies=_copies,
        untied=untied,
        carried=("spiece.model",),
    ),
    Origin(
        "hf-tf", "xlnet", ("hdf5",), HF_TF, lambda config, head: HF_TF,
        recognise=lambda seen: _has(seen, r"transformer/layer_\._\d+/rel_attn/"),
        derive=derive_hf_tf,
        head=lambda seen, config: head_of(HF_TF, seen),
        plain=_plain_hf_tf,
        written=_written_hf_tf,
        check=_check_hf_tf,
        copies=_copies,
        untied=untied,
        carried=("spiece.model",),
    ),
    Origin(
        "tf1", "xlnet", ("tf1",), TF1, tf1,
        recognise=lambda seen: _has(seen, "model/transformer/"),
        derive=derive_tf1,
        head=lambda seen, config: head_of(TF1, seen),
        plain=plain_tf1,
        written=written_tf1,
        check=_check_tf1,
        spared=_spared_tf1,
        side=_side_tf1,
        untied=untied,
        file="xlnet_model.ckpt",
        carried=("spiece.model",),
    ),
)  # fmt: skip
