"""How files wrap the names of variables, whatever the family: scopes, groups, averages, optimizers' slots."""

import re
from collections.abc import Collection, Iterable, Mapping

from xlcore.config import Config
from xlcore.heads import Head

AVERAGED = "/ExponentialMovingAverage"
REPLACED = "/as it was last"
# What a training run of TensorFlow keeps beside the parameters.
OPTIMIZER: Mapping[str, str] = {
    r".+/(Adam|Adam_1|adam_m|adam_v|Momentum|RMSProp|RMSProp_1|Adagrad)": "the optimizer's",
    r"(.+/)?beta[12]_power(_\d+)?": "the optimizer's",
    r"(.+/)?(global_step|save_counter|cluster_step)(/.+)?": "a count of training steps",
    rf".+{REPLACED}": "the averaged values stand there, too, and are what is evaluated",
}


def with_averages(names: Iterable[str]) -> dict[str, str]:
    """Let the average of a variable take its name, where both are there."""
    names = list(names)
    averaged = {name.removesuffix(AVERAGED) for name in names if name.endswith(AVERAGED)}
    return {name: name + REPLACED if name in averaged else name.removesuffix(AVERAGED) for name in names}


def unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Take off what wrappers put before every name of a PyTorch model, and spell norms as PyTorch does today."""
    plain = {name: re.sub(r"^(module\.|_orig_mod\.)+", "", name) for name in names}
    return {name: re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", each)) for name, each in plain.items()}


def snake(name: str) -> str:
    """Spell a class name as Keras 2 spells the names of its objects: `TFXLNetModel` -> `tfxl_net_model`."""
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", name)).lower()


def keras_paths(names: Iterable[str], config: Config, head: Head) -> dict[str, str]:
    """Return the paths of variables in a `tf_model.h5`: group of the layer, name of the model, the path within."""
    model = snake(f"TF{head.name}")
    return {name: f"{name.split('/')[0]}/{model}/{name}:0" for name in names}


def without_model(names: Iterable[str], roots: Collection[str]) -> dict[str, tuple[str, str]]:
    """Split the paths of a `tf_model.h5` into the group and the path within the model.

    Args:
        roots: what a path within a model can begin with. Shards leave out group and name of the model.
    """
    found = {}
    for name in names:
        parts = name.removesuffix(":0").split("/")
        wrapped = len(parts) > 2 and parts[2] in roots
        found[name] = (parts[0], "/".join(parts[2:] if wrapped else parts))
    return found


def plain_with_copy(names: Iterable[str], roots: Collection[str], table: str, copy: str) -> dict[str, str]:
    """Return paths within the model, and name the copy of a shared table that the layer of word scores holds.

    Args:
        roots: see `without_model`.
        table, copy: the paths of both.
    """
    split = without_model(names, roots)
    layer = copy.split("/")[0]
    return {name: copy if (group, path) == (layer, table) else path for name, (group, path) in split.items()}


def written_with_copy(names: Iterable[str], config: Config, head: Head, table: str, copy: str) -> dict[str, str]:
    """Return paths in the file; a copy is called by the layer that holds it, and by the variable that it is."""
    paths = keras_paths({*names, table}, config, head)
    held = paths[table].replace(table.split("/")[0], copy.split("/")[0], 1)
    return {name: held if name == copy else paths[name] for name in names}
