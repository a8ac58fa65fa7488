"""The alphabet of axes, and contracts: what a call takes and returns.

B batch, T query positions, M memory, S = M + T keys, R distances, P predicted positions, D hidden, E embedding,
F feed-forward, N heads, H head size, V vocabulary, L layers, C choices, K labels, U label positions, G = B C texts
where every example has choices, A starts of answers kept, Z = A times the ends kept for each.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xlcore.errors import ShapeError

IGNORED_LABEL = -100


@dataclass(frozen=True)
class Array:
    """One array of a contract.

    Args:
        axes: letters of the alphabet, `"B T D"`; several forms of different rank as `"N | L N"`. Where each entry of a
            list is several arrays, those of each: `"B S; B S; B M"`, of which the last ones may be missing.
        values: what stands in it, one of `VALUES`.
        times: the axis that counts how many such arrays make a list, `"L"` or `"L + 1"`; empty for a single array.
    """

    axes: str
    values: str = "real"
    times: str = ""

    def forms(self) -> list[list[str]]:
        """Return the letters of each form."""
        return [form.split() for form in self.axes.split("|")]

    def parts(self, entry: Any) -> list[tuple[str, "Array", Any]]:
        """Return of what an entry of a list is made: the places in it, what stands there, and what should."""
        each = self.axes.split(";")
        if len(each) == 1:
            return [("", self, entry)]
        return [(f"[{place}]", Array(each[place], self.values), part) for place, part in enumerate(entry)]

    def count(self, sizes: Mapping[str, int]) -> int:
        """Return how many arrays make the list."""
        axis, _, more = self.times.partition("+")
        return sizes[axis.strip()] + int(more or 0)


class Contract(dict[str, Array]):
    """The arrays of a call by the name of their argument or field."""

    def __or__(self, other: Mapping[str, Array]) -> "Contract":  # type: ignore[override]
        return Contract({**self, **other})

    def check(
        self, where: str, sizes: Mapping[str, int | None], given: Mapping[str, Any], kind: type[Any] = object
    ) -> dict[str, int]:
        """Check the shapes of what was given and return the size of every axis met.

        Sizes that a framework does not know yet (None) fit anything. Arrays must be of the kind that the framework has.

        Raises:
            ShapeError: names the argument, the axes that it must have and the shape that it has.
        """
        found = {axis: size for axis, size in sizes.items() if size is not None}
        for name, array in self.items():
            value = given.get(name)
            if value is None:
                continue
            if not array.times:
                _bind(where, name, array, value, found, kind)
                continue
            count = array.count(found)
            if not isinstance(value, Sequence) or len(value) != count:
                got = f"{len(value)}" if isinstance(value, Sequence) else type(value).__name__
                raise ShapeError(f"{where}: {name} must be a list of {count} arrays, one a layer, got {got}")
            for number, entry in enumerate(value):
                for place, part, each in array.parts(entry):
                    _bind(where, f"{name}[{number}]{place}", part, each, found, kind)
        return found

    def draw(self, sizes: Mapping[str, int], seed: int, names: Iterable[str]) -> dict[str, Any]:
        """Draw random valid arrays for some of the names: distinct in every row, the same for the same seed."""
        rng = np.random.default_rng(seed)
        drawn: dict[str, Any] = {}
        for name in names:
            array = self[name]
            one = [_draw(array, sizes, rng) for _ in range(array.count(sizes) if array.times else 1)]
            drawn[name] = one if array.times else one[0]
        return drawn


def _bind(where: str, name: str, array: Array, value: Any, found: dict[str, int], kind: type[Any]) -> None:
    """Hold one shape against the contract, and learn the sizes of the axes that were free."""
    if not hasattr(value, "shape"):
        raise ShapeError(f"{where}: {name} must be an array, got {type(value).__name__}")
    if not isinstance(value, kind):
        raise ShapeError(f"{where}: {name} must be a {kind.__name__}, got {type(value).__name__}")
    if array.values in WHOLE and "float" in str(getattr(value, "dtype", "")):
        raise ShapeError(f"{where}: {name} must hold whole numbers, got {value.dtype}")
    shape, before = tuple(value.shape), dict(found)
    form = next((form for form in array.forms() if len(form) == len(shape)), None)
    fits = form is not None
    for axis, size in zip(form or (), shape, strict=False):
        if size is not None:
            fits = fits and found.setdefault(axis, size) == size
    if not fits:
        wanted = " or ".join(f"[{', '.join(_sized(axis, before) for axis in form)}]" for form in array.forms())
        raise ShapeError(f"{where}: {name} must have shape {wanted}, got {list(shape)}")


def _sized(axis: str, found: Mapping[str, int]) -> str:
    return f"{axis}={found[axis]}" if axis in found else axis


def _draw(array: Array, sizes: Mapping[str, int], rng: np.random.Generator) -> Any:
    return VALUES[array.values](tuple(sizes[axis] for axis in array.forms()[-1]), sizes, rng)


# ------------------------------------------------------------------------------------------------ what stands in arrays

Shape = tuple[int, ...]
Sizes = Mapping[str, int]
Generator = np.random.Generator


def _real(shape: Shape, sizes: Sizes, rng: Generator) -> Any:
    return rng.standard_normal(shape).astype("float32")


def _flags(shape: Shape, sizes: Sizes, rng: Generator) -> Any:
    return rng.integers(0, 2, shape).astype("float32")


def _below(axis: str, *, ignored: bool = False) -> Callable[[Shape, Sizes, Generator], Any]:
    def draw(shape: Shape, sizes: Sizes, rng: Generator) -> Any:
        drawn = rng.integers(0, sizes[axis], shape)
        return np.where(rng.random(shape) < 0.2, IGNORED_LABEL, drawn) if ignored else drawn

    return draw


def _types(shape: Shape, sizes: Sizes, rng: Generator) -> Any:
    return rng.integers(0, 3, shape)


def _languages(shape: Shape, sizes: Sizes, rng: Generator) -> Any:
    return rng.integers(0, 2, shape)


def _lengths(shape: Shape, sizes: Sizes, rng: Generator) -> Any:
    return rng.integers(1, sizes["T"] + 1, shape)


def _orders(shape: Shape, sizes: Sizes, rng: Generator) -> Any:
    """Draw what positions may not see, [..., T, T]: a random half, hidden from all that do not come after them."""
    order = rng.random(shape[:-1]).argsort(-1)
    hidden = rng.random(shape[:-1]) < 0.5
    order = np.where(hidden, order, -1)
    return ((order[..., :, None] <= order[..., None, :]) & hidden[..., None, :]).astype("float32")


def _places(shape: Shape, sizes: Sizes, rng: Generator) -> Any:
    """Draw which positions are predicted, [..., P, T]: one in each row, all different."""
    chosen = rng.random((*shape[:-2], shape[-1])).argsort(-1)[..., : shape[-2], None]
    return (chosen == np.arange(shape[-1])).astype("float32")


VALUES: dict[str, Callable[[Shape, Sizes, Generator], Any]] = {
    "real": _real,
    "keep": _flags,  # 1 for what stays
    "hide": _flags,  # 1 for what nobody sees
    "truth": _flags,  # 1 for yes
    "ids": _below("V"),
    "labels": _below("V", ignored=True),  # ids, or -100
    "classes": _below("K"),
    "tags": _below("K", ignored=True),  # classes, or -100
    "choices": _below("C"),
    "positions": _below("P"),
    "types": _types,  # numbers of segments
    "languages": _languages,  # numbers of languages
    "lengths": _lengths,  # how many positions count
    "orders": _orders,  # 1 where the first position may not see the second
    "places": _places,  # one-hot
    "chosen": _below("P"),  # in outputs: what was chosen for being the likeliest, and what hangs on that
}
WHOLE = frozenset({"ids", "labels", "tags", "choices", "positions", "languages", "lengths"})
