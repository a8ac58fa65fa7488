"""How Keras keeps a parameter, by rule for all families: its name there, and whether it lies the other way round."""

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
