"""Parameters as data: what each is called, how large it is, and how it starts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Init:
    """How a parameter starts: `normal` around `center` with deviation `spread`, or `uniform` within `spread` of it."""

    kind: Literal["normal", "uniform", "constant"]
    center: float = 0.0
    spread: float = 0.0


def normal(std: float, mean: float = 0.0) -> Init:
    """Start with normal noise."""
    return Init("normal", mean, std)


def uniform(bound: float) -> Init:
    """Start with uniform noise in [-bound, bound]."""
    return Init("uniform", 0.0, bound)


ZEROS = Init("constant", 0.0)
ONES = Init("constant", 1.0)


@dataclass(frozen=True)
class Param:
    """One parameter: its shape, its start, and what it is.

    `linear` weights are [out, in], which Keras keeps the other way round as kernels; `norm` weights and biases are its
    gammas and betas; `plain` is anything else, the same everywhere.
    """

    shape: tuple[int, ...]
    init: Init
    kind: Literal["plain", "linear", "norm"] = "plain"


Params = Mapping[str, Param]


def linear(name: str, inputs: int, outputs: int, init: Init, *, bias: bool = True) -> dict[str, Param]:
    """List the parameters of a linear map."""
    weight = {f"{name}.weight": Param((outputs, inputs), init, "linear")}
    return weight | ({f"{name}.bias": Param((outputs,), ZEROS, "linear")} if bias else {})


def layer_norm(name: str, size: int, weight: Init = ONES) -> dict[str, Param]:
    """List the parameters of a layer normalisation."""
    return {f"{name}.weight": Param((size,), weight, "norm"), f"{name}.bias": Param((size,), ZEROS, "norm")}


def within(prefix: str, params: Params) -> dict[str, Param]:
    """Put a prefix and a dot before every name."""
    return {f"{prefix}.{name}": param for name, param in params.items()}
