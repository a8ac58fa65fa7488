"""Layouts as text in the alphabet of axes: `"A B -> B A"`, `"(N H) D -> D N H"`, `"C E -> -C E"` (rows reversed)."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any


def to_theirs(array: Any, layout: str, sizes: Mapping[str, int] | None = None) -> Any:
    """Bring an array of ours (numpy or torch) into a foreign layout, a view of it where that can be."""
    if not layout:
        return array
    ours, theirs = layout.split("->")
    return _rearranged(array, _axes(ours), _axes(theirs), dict(sizes or {}))


def to_ours(array: Any, layout: str, sizes: Mapping[str, int] | None = None) -> Any:
    """Bring a foreign array back from its layout: `to_theirs` with the sides swapped."""
    ours, _, theirs = layout.partition("->")
    return to_theirs(array, f"{theirs}->{ours}" if layout else "", sizes)


def layout_shape(shape: tuple[int, ...], layout: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of an array of ours once it is in a foreign layout."""
    if not layout:
        return shape
    ours, theirs = (_axes(side) for side in layout.split("->"))
    found = _measured(shape, ours, sizes)
    return tuple(math.prod(found[axis.lstrip("-")] for axis in group) for group in theirs)


def _axes(side: str) -> list[list[str]]:
    return [group.strip("()").split() for group in re.findall(r"\([^)]*\)|\S+", side)]


def _rearranged(array: Any, given: list[list[str]], wanted: list[list[str]], sizes: dict[str, int]) -> Any:
    sizes = _measured(array.shape, given, sizes)
    flat = [axis.lstrip("-") for group in given for axis in group]
    order = [flat.index(axis.lstrip("-")) for group in wanted for axis in group]
    array = array.reshape([sizes[axis] for axis in flat])
    for axis in {axis.lstrip("-") for group in (*given, *wanted) for axis in group if axis.startswith("-")}:
        array = _reversed(array, flat.index(axis))
    array = array.permute(*order) if hasattr(array, "permute") else array.transpose(order)
    return array.reshape([math.prod(sizes[axis.lstrip("-")] for axis in group) for group in wanted])


def _reversed(array: Any, axis: int) -> Any:
    return array.flip(axis) if hasattr(array, "flip") else array[(slice(None),) * axis + (slice(None, None, -1),)]


def _measured(shape: Sequence[int], groups: list[list[str]], sizes: Mapping[str, int]) -> dict[str, int]:
    """Find the size of every axis; in a group of several all but one must be known beforehand."""
    found = dict(sizes)
    for group, size in zip(groups, shape, strict=True):
        names = [axis.lstrip("-") for axis in group]
        rest = size // math.prod(found[axis] for axis in names if axis in found)
        found.update({axis: rest for axis in names if axis not in found})
    return found
