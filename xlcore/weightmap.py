"""Two columns, ours and theirs: how the parameters of a family are called and laid out somewhere else.

A map is data. It turns canonical names into foreign ones and back, splits what others stack, and proves for a
given parameter table that every canonical parameter has one place there and every foreign tensor one use here.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xlcore.errors import WeightError
from xlcore.params import Params


@dataclass(frozen=True)
class Row:
    """One line of a map. `{i}` stands for a number and is the same in both columns.

    `parts` are the canonical names that lie stacked along the first axis of one foreign tensor (one name if
    nothing is stacked); `layout` tells how the foreign axes lie, seen from ours: `"A B -> B A"`.
    """

    parts: tuple[str, ...]
    theirs: str
    layout: str = ""


def same(ours: str, theirs: str, layout: str = "") -> Row:
    """Say that one tensor of ours is one tensor of theirs."""
    return Row((ours,), theirs, layout)


def stacked(ours: str, parts: str, theirs: str, layout: str = "") -> Row:
    """Say that several tensors of ours, named by `{part}`, lie one after the other in one tensor of theirs."""
    return Row(tuple(ours.replace("{part}", part) for part in parts.split()), theirs, layout)


@dataclass(frozen=True)
class Place:
    """Where a canonical parameter lies elsewhere: in which tensor, from which row to which, in which layout."""

    name: str
    start: int
    stop: int
    rows: int
    layout: str


class WeightMap:
    """All rows of one foreign vocabulary, and the tensors there that hold nothing of ours.

    Args:
        rows: the two columns.
        prefix: what stands before the foreign names of a headless body when it is part of a model with a head;
            files hold either form.
        ignored: regular expressions for foreign names that are no parameters (buffers, optimizer slots).
    """

    def __init__(self, *rows: Row, prefix: str = "", ignored: Sequence[str] = ()) -> None:
        self.rows = rows
        self._uneven = [row for row in rows if any(("{i}" in part) != ("{i}" in row.theirs) for part in row.parts)]
        self.prefix = prefix
        self._ignored = [re.compile(pattern) for pattern in ignored]
        self._ours = [(_pattern(part), row, number) for row in rows for number, part in enumerate(row.parts)]
        self._theirs = [(_pattern(row.theirs), row) for row in rows]

    def theirs(self, name: str) -> tuple[str, Row, int]:
        """Return the foreign name of a canonical one, its row, and which part of the stack it is."""
        for pattern, row, number in self._ours:
            if match := pattern.fullmatch(name):
                return _filled(row.theirs, match), row, number
        raise WeightError(f"WeightMap: {name!r} must have a row, got none")

    def full_name(self, name: str) -> str:
        """Return a foreign name as it stands in a model with a head: files of a body alone leave the prefix out.

        Raises:
            WeightError: if the map knows nothing of the tensor.
        """
        for candidate in (name, self.prefix + name):
            if self._row_of(candidate) or any(pattern.fullmatch(candidate) for pattern in self._ignored):
                return candidate
        raise WeightError(f"WeightMap: {name!r} must be a known tensor, got no row for it")

    def ours(self, name: str) -> tuple[str, ...]:
        """Return the canonical names that lie in a foreign tensor: none if it is ignored.

        Raises:
            WeightError: if the map knows nothing of the tensor.
        """
        found = self._row_of(self.full_name(name))
        return tuple(_filled(part, found[1]) for part in found[0].parts) if found else ()

    def knows(self, name: str) -> bool:
        """Tell whether a foreign tensor has a row, or is ignored on purpose."""
        try:
            return bool(self.full_name(name))
        except WeightError:
            return False

    def _row_of(self, name: str) -> tuple[Row, re.Match[str]] | None:
        matches = ((row, pattern.fullmatch(name)) for pattern, row in self._theirs)
        return next(((row, match) for row, match in matches if match), None)

    def places(self, params: Params) -> dict[str, Place]:
        """Return for every canonical parameter where it lies among the foreign tensors."""
        found = {}
        for name, param in params.items():
            foreign, row, number = self.theirs(name)
            match = _pattern(row.parts[number]).fullmatch(name)
            assert match is not None  # `theirs` matched the same pattern
            if lacking := [part for part in row.parts if len(row.parts) > 1 and _filled(part, match) not in params]:
                raise WeightError(f"WeightMap: {foreign!r} must find all its parts, got none for {lacking[0]!r}")
            rows = [params[_filled(part, match)].shape[0] if len(row.parts) > 1 else 0 for part in row.parts]
            start = sum(rows[:number])
            size = param.shape[0] if param.shape else 1
            found[name] = Place(foreign, start, start + size, sum(rows) or size, row.layout)
        return found

    def shapes(self, params: Params, sizes: Mapping[str, int] | None = None) -> dict[str, tuple[int, ...]]:
        """Return the foreign tensors that a parameter table becomes, with their shapes."""
        shapes = {}
        for name, place in self.places(params).items():
            shape = (place.rows, *params[name].shape[1:]) if params[name].shape else ()
            shapes[place.name] = _layout_shape(shape, place.layout, sizes or {})
        return shapes

    def prove(self, params: Params) -> None:
        """Prove that the map covers a parameter table, both ways.

        Raises:
            WeightError: if a parameter has no place, or a foreign tensor is not used up exactly once.
        """
        if self._uneven:
            row = self._uneven[0]
            raise WeightError(f"WeightMap: {row.theirs!r} must hold a number where ours does, got {row.parts[0]!r}")
        used: dict[str, list[tuple[int, int]]] = {}
        places = self.places(params)
        for name, place in places.items():
            if name not in self.ours(place.name):
                raise WeightError(
                    f"WeightMap: {name!r} must come back from {place.name!r}, got {self.ours(place.name)}"
                )
            used.setdefault(place.name, []).append((place.start, place.stop))
        for foreign, spans in used.items():
            ends = [0, *(stop for _, stop in sorted(spans))]
            rows = next(place.rows for place in places.values() if place.name == foreign)
            if [start for start, _ in sorted(spans)] != ends[:-1] or ends[-1] != rows:
                raise WeightError(f"WeightMap: {foreign!r} must be used up exactly once, got rows {sorted(spans)}")


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\{i\}", r"(?P<i>\d+)", 1).replace(r"\{i\}", r"(?P=i)"))


def _filled(template: str, match: re.Match[str]) -> str:
    return template.replace("{i}", match.group("i")) if "{i}" in template else template


# ------------------------------------------------------------------------------------------------------- layouts


def to_theirs(array: Any, layout: str, sizes: Mapping[str, int] | None = None) -> Any:
    """Bring an array of ours (numpy or torch) into a foreign layout such as `"A B -> B A"` or `"(N H) D -> D N H"`."""
    if not layout:
        return array
    ours, theirs = layout.split("->")
    return _rearranged(array, _axes(ours), _axes(theirs), dict(sizes or {}))


def to_ours(array: Any, layout: str, sizes: Mapping[str, int] | None = None) -> Any:
    """Bring a foreign array back from its layout: `to_theirs` with the sides swapped."""
    ours, _, theirs = layout.partition("->")
    return to_theirs(array, f"{theirs}->{ours}" if layout else "", sizes)


def _axes(side: str) -> list[list[str]]:
    return [group.strip("()").split() for group in re.findall(r"\([^)]*\)|\S+", side)]


def _rearranged(array: Any, given: list[list[str]], wanted: list[list[str]], sizes: dict[str, int]) -> Any:
    sizes = _measured(array.shape, given, sizes)
    flat = [axis for group in given for axis in group]
    order = [flat.index(axis) for group in wanted for axis in group]
    array = array.reshape([sizes[axis] for axis in flat])
    array = array.permute(*order) if hasattr(array, "permute") else array.transpose(order)
    return array.reshape([math.prod(sizes[axis] for axis in group) for group in wanted])


def _measured(shape: Sequence[int], groups: list[list[str]], sizes: Mapping[str, int]) -> dict[str, int]:
    """Find the size of every axis; in a group of several all but one must be known beforehand."""
    found = dict(sizes)
    for group, size in zip(groups, shape, strict=True):
        rest = size // math.prod(found[axis] for axis in group if axis in found)
        found.update({axis: rest for axis in group if axis not in found})
    return found


def _layout_shape(shape: tuple[int, ...], layout: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    if not layout:
        return shape
    ours, theirs = (_axes(side) for side in layout.split("->"))
    found = _measured(shape, ours, sizes)
    return tuple(math.prod(found[axis] for axis in group) for group in theirs)
