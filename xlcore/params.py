"""Parameters as data: what each is called, how large it is, and how it starts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from xlcore.errors import WeightError


@dataclass(frozen=True)
class Init:
    """How a parameter starts: `normal` around `center` with deviation `spread`, or `uniform` within `spread` of it.

    The row `zero_row` starts as zeros; a `sinusoid` is what `sinusoid` returns.
    """

    kind: Literal["normal", "uniform", "constant", "sinusoid"]
    center: float = 0.0
    spread: float = 0.0
    zero_row: int | None = None


def normal(std: float, mean: float = 0.0) -> Init:
    """Start with normal noise."""
    return Init("normal", mean, std)


def uniform(bound: float) -> Init:
    """Start with uniform noise in [-bound, bound]."""
    return Init("uniform", 0.0, bound)


ZEROS = Init("constant", 0.0)
ONES = Init("constant", 1.0)
SINUSOID = Init("sinusoid")


def sinusoid(count: int, size: int) -> np.ndarray[Any, Any]:
    """Encode positions by sines and cosines in turn (Vaswani et al., 2017, section 3.5) as [count, size]."""
    angles = np.arange(count)[:, None] / 10000.0 ** (np.arange(0, size, 2) / size)
    both = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    found: np.ndarray[Any, Any] = both.reshape(count, -1)[:, :size]
    return found


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


def require_described(where: str, params: Params, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse to save parameters that the config does not describe, or not as they are.

    Raises:
        WeightError: names them: a key of the config was changed since they were made, or a subclass adds some.
    """
    listed = {name: param.shape for name, param in params.items()}
    wrong = [
        f"{name} {_size(shapes, name)} for {_size(listed, name)}"
        for name in {**listed, **dict(sorted(shapes.items()))}
        if listed.get(name) != shapes.get(name)
    ]
    if wrong:
        rest = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise WeightError(f"{where}: config must describe the parameters as they are, got {', '.join(wrong[:3])}{rest}")


def _size(shapes: Mapping[str, tuple[int, ...]], name: str) -> str:
    return str(list(shapes[name])) if name in shapes else "none"
