"""How Keras keeps a parameter, by rule for all families: its name there, and whether it lies the other way round."""

import json
import re
from typing import Any

from xlcore.config import Config
from xlcore.heads import Family, Head
from xlcore.params import Param

_NAMES = {
    ("norm", "weight"): "gamma",
    ("norm", "bias"): "beta",
    ("linear", "weight"): "kernel",
}


def keras_name(name: str, param: Param) -> str:
    """Return the path of the Keras variable for a canonical name: `layer/layer/variable`."""
    *owner, last = name.split(".")
    return "/".join([*owner, _NAMES.get((param.kind, last), last)])


def is_turned(name: str, param: Param) -> bool:
    """Tell whether Keras keeps the transposed matrix: kernels are [in, out] there."""
    return param.kind == "linear" and name.endswith(".weight")


# ------------------------------------------------------------------------------------------------- files of weights

# A file of weights calls a layer by its attribute, and by its class where it stands in a list. It walks a model's
# attributes in the order of the alphabet, and one of them is the list of all its `layers`: parts of a model whose
# attribute comes after that are found there first, and called by their class.
_LISTED = "layers"
#: attribute -> class of the parts of heads that come after `layers`; a linear map is `Dense`.
_PARTS = {
    "lm_head": "WordScores",
    "transform": "HeadTransform",
    "sequence_summary": "SequenceSummary",
    "start": "StartScores",
}
_LISTS = {"bins": "AdaptiveBin"}  # attribute -> class of what a list holds; else it holds the family's blocks
_FIRST = {"weight": 0, "bias": 1}  # the order in which a layer makes its variables; others follow as the table has them


def h5_paths(family: Family, config: Config, head: Head) -> dict[str, str]:
    """Return where `save_weights` of our Keras model puts every parameter, tied ones under each of their names.

    `blocks.1.attention.query.weight` -> `layers/tf_transfo_xl_model/blocks/transfo_xl_block_1/attention/query/vars/0`.
    """
    parts = {name.split(".")[0] for name in family.body(config)}
    apart = (alias for alias, first in family.ties_within(config, head).items() if _owner(alias) != _owner(first))
    names = [*family.params(config, head), *apart]  # a layer has no variable twice
    variables: dict[str, list[str]] = {}
    for name in names:
        owner, _, last = name.rpartition(".")
        variables.setdefault(owner, []).append(last)
    found = {}
    for name in names:
        owner, _, last = name.rpartition(".")
        steps = _steps(owner, family)
        if name.split(".")[0] not in parts:
            steps = _in_head(steps)
        elif head.kind != "base":
            steps = [_LISTED, _snake(f"TF{family.heads[0].name}"), *steps]
        order = sorted(variables[owner], key=lambda each: _FIRST.get(each, len(_FIRST)))
        found[name] = "/".join([*steps, "vars", str(order.index(last))])
    return found


def archive_config(config: Config, head: Head, dtype: str = "float32") -> dict[str, Any]:
    """Return what a `.keras` archive holds as `config.json`: our Keras model as Keras serializes it."""
    name = f"TF{head.name}"
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": dtype}, "registered_name": None}
    return {
        "module": f"xl_tf.{config.model_type.replace('-', '_')}",
        "class_name": name,
        "config": {"name": _snake(name), "dtype": policy, "config": json.loads(json.dumps(config.to_dict()))},
        "registered_name": f"xlbridge>{name}",
        "compile_config": {},
    }


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _steps(owner: str, family: Family) -> list[str]:
    """Return the path of a layer within a body or a head: layers in a list are called by class and number."""
    steps: list[str] = []
    for part in filter(None, owner.split(".")):
        if part.isdecimal():
            listed = _LISTS.get(steps[-1]) or family.heads[0].name.removesuffix("Model") + "Block"
            part = _snake(listed) + (f"_{part}" if int(part) else "")
        steps.append(part)
    return steps


def _in_head(steps: list[str]) -> list[str]:
    """Return the path of a layer that a head adds."""
    first, *rest = steps
    return steps if first < _LISTED else [_LISTED, _snake(_PARTS.get(first, "Dense")), *rest]


def _snake(name: str) -> str:
    """Write the name of a class as Keras writes it in paths."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
