"""Where checkpoints of Transformer-XL come from, and how a config follows from their tensors and what lies beside."""

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

import numpy as np

from xlcore.errors import ConfigError
from xlcore.families.transfo_xl import RELEASED, TransfoXLConfig, is_projected, ties
from xlcore.heads import Head
from xlcore.inert import Placeholder
from xlcore.maps.spelling import keras_paths, unwrapped, with_averages, without_model
from xlcore.maps.transfo_xl import HF, HF_TF, TF1, TORCH, tf1
from xlcore.origin import Derived, Keys, Origin, Seen, Shape, bare_body, canonical_shapes, numbered, require, settle
from xlcore.weightmap import WeightMap

BODY, LM, CLASSIFIER = "TransfoXLModel", "TransfoXLLMHeadModel", "TransfoXLForSequenceClassification"

# ------------------------------------------------------------------------------------------------ deriving a config

# What no tensor tells and a model computes with.
UNTOLD = {key: TransfoXLConfig.fields[key].default for key in ("pre_lnorm", "mem_len", "clamp_len", "same_length")}
_MOST_DIVISORS = 100_000  # that are tried
SETTINGS = ("mem_len", "clamp_len", "same_length")  # of the authors' evaluation
# Keys of the authors' command lines and of ours.
ARGUMENTS = {"n_token": "vocab_size", "tie_weight": "tie_word_embeddings", "tied": "tie_word_embeddings"} | {
    key: key
    for key in """
    cutoffs tie_projs div_val n_layer n_head d_model d_embed d_head d_inner pre_lnorm mem_len clamp_len same_length
    dropout dropatt attn_type sample_softmax init init_range init_std proj_init_std tgt_len ext_len
    """.split()
}
# What the authors' modules know of themselves.
MODULE = {key: name for key, name in ARGUMENTS.items() if key == name} | {
    "n_token": "vocab_size",
    "crit.cutoffs": "cutoffs",
    "crit.div_val": "div_val",
    "layers.0.dec_attn.pre_lnorm": "pre_lnorm",
    "drop.p": "dropout",
    "layers.0.dec_attn.dropatt.p": "dropatt",
}
FLAGS = {"untie_r": "untie_r", "proj_share_all_but_first": "proj_share_all_but_first"} | {
    key: key
    for key in """
    div_val n_layer n_head d_model d_embed d_head d_inner mem_len clamp_len same_length
    dropout dropatt init init_range init_std proj_init_std tgt_len
    """.split()
}


def sizes_of(names: WeightMap, seen: Seen, told: Keys) -> dict[str, Any]:
    """Return what the shapes tell; `told` chooses where they leave a choice that makes no difference to them."""
    found = canonical_shapes(names, seen.shapes)
    tables = [found[f"embedding.bins.{i}.weight"] for i in numbered(found, "embedding.bins.", ".weight")]
    layers = numbered(found, "blocks.", ".attention_norm.weight")
    if not tables or not layers:
        raise ConfigError(f"{seen.where}: a config must be there or follow from embeddings and layers, got neither")
    shared, bias = _bias(found)
    keys = {
        "vocab_size": sum(table[0] for table in tables),
        "d_model": found["blocks.0.attention_norm.weight"][0],
        "d_embed": tables[0][1],
        "n_head": bias[-2],
        "d_head": bias[-1],
        "d_inner": found["blocks.0.feed_forward.inner.bias"][0],
        "n_layer": len(layers),
        "untie_r": not shared,
        "div_val": _div_val(found, tables, told),
    }
    if "score.weight" in found:
        keys["num_labels"] = found["score.weight"][0]
    return keys | _cutoffs(found, tables) | _ties(found, len(tables))


def _bias(found: Mapping[str, Shape]) -> tuple[bool, Shape]:
    """Return whether the layers share one bias of the query, and its shape; only TensorFlow's can be of all layers."""
    in_one = found.get("blocks.{i}.attention.content_bias", ())
    if "content_bias" in found or len(in_one) == 2:
        return True, found.get("content_bias", in_one)
    return False, in_one or found.get("blocks.0.attention.content_bias", (1, 1))


def _div_val(found: Mapping[str, Shape], tables: list[Shape], told: Keys) -> int:
    """Return a divisor that gives the tables their widths: several may, and compute the same."""
    widths = [width for _, width in tables]
    several = len(tables) > 1 or (
        "embedding.bins.0.projection" in found and widths[0] == found["blocks.0.attention_norm.weight"][0]
    )
    least, wanted = 1 + several, told.get("div_val")

    def fits(value: int) -> bool:
        return all(widths[0] // value**number == width for number, width in enumerate(widths))

    if isinstance(wanted, int) and wanted >= least and fits(wanted):
        return wanted
    first = max(least, widths[0] // (widths[1] + 1) + 1) if len(widths) > 1 else least
    return next((value for value in range(first, first + _MOST_DIVISORS) if fits(value)), least)


def _cutoffs(found: Mapping[str, Shape], tables: list[Shape]) -> dict[str, Any]:
    biases = [found[f"crit.bins.{i}.bias"][0] for i in numbered(found, "crit.bins.", ".bias")]
    parts = [size for size, _ in tables] if len(tables) > 1 else biases
    if len(parts) < 2 and "crit.cluster.weight" in found:
        return {}  # one table and one bias for all bins
    return {"cutoffs": list(accumulate(parts))[:-1]} if parts else {}


def _ties(found: Mapping[str, Shape], tables: int) -> dict[str, Any]:
    """Return which bins share their projection, where leaving it out says so: some files hold copies."""
    if "crit.bins.0.weight" in found or "crit.bins.0.bias" not in found:
        return {}
    bins = 1 + found.get("crit.cluster.weight", (0,))[0]
    if not any(f"embedding.bins.{i}.projection" in found for i in range(tables)):
        return {}
    return {"tie_projs": [
        f"crit.bins.{i}.projection" not in found and f"embedding.bins.{i if tables > 1 else 0}.projection" in found
        for i in range(bins)
    ]}  # fmt: skip


def head_of(names: WeightMap, seen: Seen) -> str:
    """Return the class of the model that the tensors make."""
    parts = {name.split(".")[0] for name in canonical_shapes(names, seen.shapes)}
    return LM if "crit" in parts else CLASSIFIER if "score" in parts else BODY


def _from(side: Keys, table: Mapping[str, str]) -> dict[str, Any]:
    """Return the keys of a file of the authors' under our names; -1 and null mean as wide as the model."""
    keys = {table[key]: value for key, value in side.items() if key in table}
    if keys.get("d_embed", 1) in (None, -1) and "d_model" in keys:
        keys["d_embed"] = keys["d_model"]
    if "crit.cutoffs" in side and isinstance(keys["cutoffs"], list | tuple):
        keys["cutoffs"] = list(keys["cutoffs"])[:-1]  # the authors' module ends them with the vocabulary
    if side.get("not_tied") is True:
        keys["tie_word_embeddings"] = False
    return {key: value for key, value in keys.items() if value is not None}


def _settled(names: WeightMap, seen: Seen, *sources: tuple[str, Keys]) -> Derived:
    told = {key: value for _, keys in reversed(sources) for key, value in keys.items()} | dict(seen.given)
    shapes = sizes_of(names, seen, told)
    derived = settle(seen, UNTOLD, ("the shapes of the tensors", shapes), *sources)
    if "cutoffs" not in derived.keys:
        if head_of(names, seen) == LM:
            what = "the cutoffs of its one table must be told"
            raise ConfigError(f"{seen.where}: {what}, got tensors that do not; give the key 'cutoffs' or a config.json")
        derived.keys["cutoffs"] = []
    return derived


def derive_hf(seen: Seen) -> Derived:
    """Derive the config of a file that lost its config.json."""
    return _settled(HF, seen)


def derive_hf_tf(seen: Seen) -> Derived:
    """Derive the config of a `tf_model.h5` that lost its config.json."""
    return _settled(HF_TF, seen)


def derive_torch(seen: Seen) -> Derived:
    """Derive the config of a model of the authors' PyTorch, which starts from an empty memory."""
    by_code = {"initial_memory": "empty", "layer_norm_epsilon": 1e-5}
    args = seen.extras.get("args")
    return _settled(
        TORCH,
        seen,
        ("args.json", _from(seen.side.get("args.json", {}), ARGUMENTS)),
        ("the arguments in the file", _from(args.attributes, ARGUMENTS) if isinstance(args, Placeholder) else {}),
        ("the pickled module", _from(seen.extras, MODULE)),
        ("the authors' PyTorch", by_code),
    )


def derive_tf1(seen: Seen) -> Derived:
    """Derive the config of a model of the authors' TensorFlow: its window, its epsilon, its memory of zeros."""
    corpus = dict(seen.side.get("corpus-info.json", {}))
    keys: dict[str, Any] = {key: corpus[key] for key in ("vocab_size", "cutoffs") if key in corpus}
    if "cutoffs" in keys:
        keys["cutoffs"] = keys["cutoffs"][1:-1]
    by_code = {"window_rule": "tf1", "layer_norm_epsilon": 1e-12, "initial_memory": "zeros"}
    flags = _from(seen.side.get("flags.json", {}), FLAGS)
    return _settled(
        TF1,
        seen,
        ("flags.json", flags),
        ("corpus-info.json", keys),
        ("the authors' TensorFlow", by_code | {"pre_lnorm": False}),
        *_released(sizes_of(TF1, seen, flags)),
    )


def _released(sizes: Keys) -> list[tuple[str, dict[str, Any]]]:
    """Return the evaluation settings of the released model that has these sizes, if one has."""
    for name, keys in RELEASED.items():
        config = TransfoXLConfig(**keys)
        if name.startswith("tf_") and all(getattr(config, key) == value for key, value in sizes.items()):
            return [
                (f"the evaluation of {name}, whose sizes these are", {key: getattr(config, key) for key in SETTINGS})
            ]
    return []


# ------------------------------------------------------------------------------------------------------- the origins


def untied(config: TransfoXLConfig, names: Iterable[str]) -> TransfoXLConfig:
    """Return the config under which the named copies are tensors of their own."""
    keys: dict[str, Any] = {"tie_projs": list(config.tie_projs)}
    for name in names:
        part, _, rest = name.partition(".")
        if part == "blocks":
            keys["untie_r"] = True
        elif rest.endswith(".weight"):
            keys["tie_word_embeddings"] = False
        else:
            keys["tie_projs"][int(rest.split(".")[1])] = False
    return config.copy(**keys)


def _has(seen: Seen, *starts: str) -> bool:
    return any(name.startswith(starts) for name in seen.shapes)


def _is_torch(seen: Seen) -> bool:
    """Tell whether the head stands beside a body without prefix, as in the authors' module."""
    return _has(seen, "word_emb.") and _has(seen, "crit.")


def _check_hf_tf(config: Any, head: Head) -> None:
    where = "hf-tf"
    require(where, config, untie_r=True)
    if config.div_val == 1:
        raise ConfigError(f"{where}: div_val must be above 1 there, got 1; choose another format")


def _check_head(origin: str, head: Head) -> None:
    if head.name != LM:
        raise ConfigError(f"{origin}: head must be {LM} there, got {head.name}; choose another format")


def _check_torch(config: Any, head: Head) -> None:
    _check_head("torch-original", head)
    require("torch-original", config, untie_r=False)


def _check_tf1(config: Any, head: Head) -> None:
    _check_head("tf1", head)
    require("tf1", config, tie_word_embeddings=True, pre_lnorm=False)
    if not config.cutoffs and is_projected(config):
        require("tf1", config, tie_projs=[True], div_val=1)


def _copies(config: Any, head: Head) -> list[str]:
    """Return all second names: a torch file holds a tensor under each of its names."""
    return list(ties(config))


def _copies_of_head(config: Any, head: Head) -> list[str]:
    """Return the second names that files of a head hold beside the first."""
    return [alias for alias in ties(config) if alias.startswith("crit.")] if head.name == LM else []


def _copies_tf1(config: Any, head: Head) -> list[str]:
    """Return the tied projections that are variables in the authors' graph: the first bin's, or those of all."""
    own = [f"crit.bins.{i}.projection" for i in range(len(config.cutoffs) + 1)]
    wanted = own[:1] if all(config.tie_projs[1:]) else own
    return [alias for alias in _copies_of_head(config, head) if alias in wanted] if config.cutoffs else []


def _spared_tf1(config: Any, head: Head) -> list[list[str]]:
    """Return the projections that are none with `proj_same_dim` off: those between equal sizes, all of them."""
    if config.div_val == 1 or config.d_embed != config.d_model:
        return []
    return [["embedding.bins.0.projection"] + ["crit.bins.0.projection"] * (not config.tie_projs[0])]


def _frequencies(config: Any, head: Head) -> dict[str, "np.ndarray[Any, Any]"]:
    """Return the buffer of the authors' module, which `load_state_dict` wants to find."""
    exponents = np.arange(0.0, config.d_model, 2.0, dtype=np.float32) / np.float32(config.d_model)
    return {"transformer.pos_emb.inv_freq": 1 / (10000**exponents)}


def _args_json(config: Any, head: Head) -> dict[str, Keys]:
    return {"args.json": {key: getattr(config, name) for key, name in ARGUMENTS.items() if hasattr(config, name)}}


def _flags_json(config: Any, head: Head) -> dict[str, Keys]:
    flags = {key: getattr(config, name) for key, name in FLAGS.items() if hasattr(config, name)}
    cutoffs = [0, *config.cutoffs, config.vocab_size] if config.cutoffs else []
    return {
        "flags.json": flags | {"proj_share_all_but_first": bool(config.cutoffs) and all(config.tie_projs[1:])},
        "corpus-info.json": {"vocab_size": config.vocab_size, "cutoffs": cutoffs},
    }


VOCABULARY = ("vocab.txt", "vocab.json", "vocab.pkl", "vocab.bin", "cache.pkl", "cache.pt")
ROOTS = ("transformer", "crit", "score")

ORIGINS = (
    Origin(
        "hf", "transfo-xl", ("safetensors", "torch"), HF, lambda config, head: HF,
        recognise=lambda seen: _has(seen, "transformer.word_emb.", "word_emb.") and not _is_torch(seen),
        derive=derive_hf,
        head=lambda seen, config: head_of(HF, seen),
        plain=unwrapped,
        written=bare_body("transformer."),
        copies=_copies,
        untied=untied,
        carried=VOCABULARY,
    ),
    Origin(
        "hf-tf", "transfo-xl", ("hdf5",), HF_TF, lambda config, head: HF_TF,
        recognise=lambda seen: _has(seen, "transformer/word_emb/"),
        derive=derive_hf_tf,
        head=lambda seen, config: head_of(HF_TF, seen),
        plain=lambda names: {name: rest for name, (_, rest) in without_model(names, ROOTS).items()},
        written=keras_paths,
        check=_check_hf_tf,
        copies=_copies_of_head,
        untied=untied,
        unties=True,
        carried=VOCABULARY,
    ),
    Origin(
        "torch-original", "transfo-xl", ("torch",), TORCH, lambda config, head: TORCH,
        recognise=_is_torch,
        derive=derive_torch,
        head=lambda seen, config: head_of(TORCH, seen),
        plain=unwrapped,
        written=lambda names, config, head: {name: name.removeprefix("transformer.") for name in names},
        check=_check_torch,
        copies=_copies_of_head,
        constants=_frequencies,
        side=_args_json,
        untied=untied,
        unties=True,
        file="model.pt",
        carried=VOCABULARY,
    ),
    Origin(
        "tf1", "transfo-xl", ("tf1",), TF1, tf1,
        recognise=lambda seen: _has(seen, "transformer/adaptive_embed/"),
        derive=derive_tf1,
        head=lambda seen, config: head_of(TF1, seen),
        plain=with_averages,
        check=_check_tf1,
        copies=_copies_tf1,
        spared=_spared_tf1,
        side=_flags_json,
        untied=untied,
        carried=VOCABULARY,
    ),
)  # fmt: skip
