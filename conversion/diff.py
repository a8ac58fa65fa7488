"""Two checkpoints of any formats, tensor by tensor, under canonical names."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

import ml_dtypes
import numpy as np

from conversion.blocks import Tensor, cuts
from conversion.formats.base import Entry
from conversion.source import Source
from xlcore.errors import WeightError

T = TypeVar("T")

_PART = 1 << 20  # numbers that are compared at a time
_WITHOUT_EFFECT = frozenset({"architectures"})

State = Literal["equal", "equal values", "different", "reshaped", "missing"]


@dataclass(frozen=True)
class Compared:
    """One parameter on two sides.

    Attributes:
        name: its canonical name.
        state: `"equal"` bit by bit, `"equal values"` in two dtypes, `"different"`, `"reshaped"`, or `"missing"` on one
            side.
        shapes, dtypes: on both sides; None where it is missing.
        largest: the largest difference; infinite where one side alone is infinite or no number.
        steps: the largest difference in steps of the coarser dtype (units in the last place).
        share: how much of it differs, from 0 to 1.
    """

    name: str
    state: State
    shapes: tuple[tuple[int, ...] | None, tuple[int, ...] | None]
    dtypes: tuple[str | None, str | None]
    largest: float = 0.0
    steps: int = 0
    share: float = 0.0


@dataclass(frozen=True)
class Difference:
    """What two checkpoints have in common and what not.

    Attributes:
        sides: the two.
        tensors: every parameter of either.
        config: the keys that differ, with both values.
    """

    sides: tuple[Source, Source]
    tensors: list[Compared]
    config: dict[str, tuple[Any, Any]]

    @property
    def same_tensors(self) -> bool:
        """Whether both hold the same numbers for the same parameters, and nothing else."""
        known = not any(each.fate == "unexpected" for side in self.sides for each in side.accounts)
        return known and all(each.state in ("equal", "equal values") for each in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it; an infinite difference is `"inf"`."""
        tensors = [asdict(each) for each in self.tensors]
        for each in tensors:
            each["largest"] = each["largest"] if math.isfinite(each["largest"]) else "inf"
        return {
            "paths": [str(side.path) for side in self.sides],
            "heads": [side.head.name for side in self.sides],
            "same_tensors": self.same_tensors,
            "unexpected": [[each.name for each in side.accounts if each.fate == "unexpected"] for side in self.sides],
            "config": self.config,
            "tensors": tensors,
        }


def diff(one: Source, other: Source, advance: Callable[[int], None] = lambda count: None) -> Difference:
    """Compare two checkpoints, holding one tensor of each at a time.

    A parameter that is tied on one side and has a tensor of its own on the other is compared with what it is tied to.

    Args:
        one, other: the opened checkpoints.
        advance: called with each number of bytes that is read.

    Raises:
        WeightError: if they are of two families.
    """
    families = [side.config.model_type for side in (one, other)]
    if families[0] != families[1]:
        raise WeightError(f"{other.path}: tensors must be those of {families[0]}, as {one.path}, got {families[1]}")
    names = [_names(side) for side in (one, other)]
    tensors = [
        _compared(name, (one, names[0].get(name)), (other, names[1].get(name)), advance)
        for name in dict.fromkeys([*one.entries, *other.entries])
    ]
    pairs = {key: (getattr(one.config, key), getattr(other.config, key)) for key in one.config.fields}
    config = {key: pair for key, pair in pairs.items() if pair[0] != pair[1] and key not in _WITHOUT_EFFECT}
    return Difference((one, other), tensors, config)


def size_of(one: Source, other: Source) -> int:
    """Return the bytes that a comparison reads."""
    return sum(entry.nbytes for side in (one, other) for entry in side.entries.values())


def _names(side: Source) -> dict[str, str]:
    """Return under which name a side holds each parameter that it has, tied ones included."""
    ties = side.family.ties_within(side.config, side.head)
    tied = {alias: name for alias, name in ties.items() if name in side.entries}
    return {**tied, **{name: name for name in side.entries}}


def _compared(
    name: str, one: tuple[Source, str | None], other: tuple[Source, str | None], advance: Callable[[int], None]
) -> Compared:
    entries = [side.entries[held] if held else None for side, held in (one, other)]
    shapes, dtypes = _pair(entries, lambda entry: entry.shape), _pair(entries, lambda entry: str(entry.dtype))
    if None in entries or shapes[0] != shapes[1]:
        return Compared(name, "missing" if None in entries else "reshaped", shapes, dtypes)
    arrays = [np.atleast_1d(side.read(held, finite=False)) for side, held in (one, other) if held]
    advance(sum(array.nbytes for array in arrays))
    differing, largest, steps = 0, 0.0, 0
    for cut in cuts(arrays[0].shape, _PART):
        count, far, many = _apart(*(np.ascontiguousarray(array[cut]).reshape(-1) for array in arrays))
        differing, largest, steps = differing + count, max(largest, far), max(steps, many)
    equal: State = "equal" if dtypes[0] == dtypes[1] else "equal values"
    state: State = "different" if differing else equal
    return Compared(name, state, shapes, dtypes, largest, steps, differing / max(1, arrays[0].size))


def _pair(entries: Sequence[Entry | None], get: Callable[[Entry], T]) -> tuple[T | None, T | None]:
    one, other = (get(entry) if entry else None for entry in entries)
    return one, other


def _apart(one: Tensor, other: Tensor) -> tuple[int, float, int]:
    """Return how many numbers of two arrays differ, by how much at most, and by how many steps of the coarser dtype."""
    if one.dtype == other.dtype:
        bits = f"u{one.itemsize}"
        differ = one.view(bits) != other.view(bits)
    else:
        wide = one.astype("float64"), other.astype("float64")
        differ = (wide[0].view("u8") != wide[1].view("u8")) & ~(np.isnan(wide[0]) & np.isnan(wide[1]))
    count = int(np.count_nonzero(differ))
    if not count:
        return 0, 0.0, 0
    one, other = one[differ], other[differ]
    with np.errstate(invalid="ignore", over="ignore"):
        far = np.abs(one.astype("float64") - other.astype("float64"))
        coarser = max(one.dtype, other.dtype, key=_spacing)
        ranks = [_ranked(array.astype(coarser)) for array in (one, other)]
    finite = np.isfinite(far)
    steps = (np.maximum(*ranks) - np.minimum(*ranks))[finite]
    largest = float(far.max()) if finite.all() else math.inf
    return count, largest, int(steps.max(initial=0))


def _spacing(dtype: np.dtype[Any]) -> float:
    """Return how far apart the numbers of a dtype lie above 1."""
    return 1.0 if dtype.kind in "iub" else float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]


def _ranked(array: Tensor) -> Tensor:
    """Return for each number how many of its dtype lie below it; both zeros are one."""
    sign = np.uint64(1 << (8 * array.itemsize - 1))
    bits = array.view(f"u{array.itemsize}").astype("u8")
    ranked: Tensor = np.where(bits & sign, sign - (bits & (sign - np.uint64(1))), sign + bits)
    return ranked
