"""Two columns, ours and theirs: how the parameters of a family are called and laid out somewhere else.

A map is data. It turns canonical names into foreign ones and back, splits what others stack, and proves for a
given parameter table that every canonical parameter has one place there and every foreign tensor one use here.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Generic, Literal, TypeVar

from xlcore.errors import WeightError
from xlcore.layouts import layout_shape, to_ours, to_theirs
from xlcore.params import Params

__all__ = [
    "Place", "Recipe", "Row", "WeightMap", "copied", "cut", "layered", "or_else", "same", "stacked", "to_ours",
    "to_theirs",
]  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One line of a map. `{i}` stands for a number and is the same in both columns.

    Args:
        parts: the canonical names that lie one after the other along the first axis of one foreign tensor.
        theirs: the foreign name.
        layout: how the foreign axes lie, seen from ours: `"A B -> B A"`.
        over: what happens to the layers' tensors where only our column has the number: they lie in `"layers"`, an axis
            in front of the others, or one foreign tensor stands for all of them as `"copies"`.
        rows: which rows of ours lie there, if not all of them do.
        absent: what a foreign tensor that is not there stands for.
    """

    parts: tuple[str, ...]
    theirs: str
    layout: str = ""
    over: Literal["", "layers", "copies"] = ""
    rows: tuple[int, int] | None = None
    absent: Literal["", "identity", "zeros"] = ""


def same(ours: str, theirs: str, layout: str = "") -> Row:
    """Say that one tensor of ours is one tensor of theirs."""
    return Row((ours,), theirs, layout)


def stacked(ours: str, parts: str, theirs: str, layout: str = "") -> Row:
    """Say that several tensors of ours, named by `{part}`, lie one after the other in one tensor of theirs."""
    return Row(tuple(ours.replace("{part}", part) for part in parts.split()), theirs, layout)


def layered(ours: str, theirs: str) -> Row:
    """Say that one tensor of theirs holds ours of all layers, which are its first axis."""
    return Row((ours,), theirs, over="layers")


def copied(ours: str, theirs: str) -> Row:
    """Say that one tensor of theirs is shared by all layers, of which ours has one each, all equal."""
    return Row((ours,), theirs, over="copies")


def cut(ours: str, theirs: str, start: int, stop: int) -> Row:
    """Say that some rows of ours are one tensor of theirs; the other rows have rows of the map of their own."""
    return Row((ours,), theirs, rows=(start, stop))


def or_else(absent: Literal["identity", "zeros"], row: Row) -> Row:
    """Say what a tensor of theirs stands for where it is not there."""
    return replace(row, absent=absent)


@dataclass(frozen=True)
class Place:
    """Where a canonical parameter, or some rows of it, lies elsewhere.

    Attributes:
        name: the foreign tensor.
        start, stop: its rows, seen in our layout.
        rows: how many it has in all.
        first: the first row of ours that lies there; where layers are stacked, `start` is the layer and ours is whole.
        row: the line of the map.
    """

    name: str
    start: int
    stop: int
    rows: int
    row: Row
    first: int = 0

    @property
    def layout(self) -> str:
        """How the foreign axes lie, seen from ours."""
        return self.row.layout


@dataclass(frozen=True)
class Recipe:
    """How a foreign tensor is made of ours.

    Attributes:
        shape: of the foreign tensor.
        parts: the canonical names that lie in it, in order.
        row: the line of the map.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[str, ...]
    row: Row

    def lay(self, joined: Any, sizes: Mapping[str, int] | None = None) -> Any:
        """Bring the parts, joined along their first axis, into the foreign layout: a view where that can be.

        Raises:
            WeightError: if layers differ for which the foreign tensor has one value.
        """
        if self.row.rows:
            joined = joined[slice(*self.row.rows)]
        if self.row.over:
            joined = joined.reshape(len(self.parts), -1, *joined.shape[1:])
        if self.row.over == "copies":
            for number in range(1, len(joined)):
                self._require_equal(bool((joined[0] == joined[number]).all()), number)
            joined = joined[0]
        return to_theirs(joined, self.row.layout, sizes)

    def _require_equal(self, equal: bool, number: int) -> None:
        if not equal:
            first, other = self.parts[0], self.parts[number]
            raise WeightError(
                f"WeightMap: {other!r} must equal {first!r}, for {self.name!r} stands for both, got another"
            )


class WeightMap:
    """All rows of one foreign vocabulary, and the tensors there that hold nothing of ours.

    Args:
        rows: the two columns.
        prefix: what stands before the foreign names of a headless body when it is part of a model with a head;
            files hold either form.
        ignored: what holds no parameters: regular expressions for foreign names, and why each is passed over.
    """

    def __init__(self, *rows: Row, prefix: str = "", ignored: Mapping[str, str] | None = None) -> None:
        self.rows = rows
        self.prefix = prefix
        self.ignored = dict(ignored or {})
        self._uneven = [
            row for row in rows if not row.over and any(("{i}" in part) != ("{i}" in row.theirs) for part in row.parts)
        ]
        self._reasons = [(re.compile(pattern), reason) for pattern, reason in self.ignored.items()]
        parts = [(part, row, number) for row in rows for number, part in enumerate(row.parts)]
        self._ours = _Lines((part, (row, number)) for part, row, number in parts)
        self._theirs = _Lines((row.theirs, row) for row in rows)

    def but(self, *rows: Row, prefix: str | None = None, ignored: Mapping[str, str] | None = None) -> "WeightMap":
        """Return a map with other lines for the canonical names of `rows`, and further tensors that hold nothing."""
        given = {part for row in rows for part in row.parts}
        kept = [row for row in self.rows if not given & set(row.parts)]
        prefix = self.prefix if prefix is None else prefix
        return WeightMap(*kept, *rows, prefix=prefix, ignored=self.ignored | dict(ignored or {}))

    # ---------------------------------------------------------------------------------------------------- names

    def theirs(self, name: str) -> tuple[str, Row, int]:
        """Return the foreign name of a canonical one, its row, and which part of the stack it is."""
        return self._rows_of(name)[0]

    def _rows_of(self, name: str) -> list[tuple[str, Row, int]]:
        """Return the first row for a canonical name, and if it holds but some rows of it, those of the rest."""
        found = [(_filled(row.theirs, match), row, number) for (row, number), match in self._ours.of(name)]
        if not found:
            raise WeightError(f"WeightMap: {name!r} must have a row, got none")
        return [each for each in found if each[1].rows] if found[0][1].rows else found[:1]

    def full_name(self, name: str) -> str:
        """Return a foreign name as it stands in a model with a head: files of a body alone leave the prefix out.

        Raises:
            WeightError: if the map knows nothing of the tensor.
        """
        for candidate in (name, self.prefix + name):
            if self._row_of(candidate) or self.why_ignored(candidate):
                return candidate
        raise WeightError(f"WeightMap: {name!r} must be a known tensor, got no row for it")

    def why_ignored(self, full_name: str) -> str | None:
        """Return the reason why a foreign tensor is passed over; None if it is not."""
        return next((reason for pattern, reason in self._reasons if pattern.fullmatch(full_name)), None)

    def ours(self, name: str) -> tuple[str, ...]:
        """Return the canonical names that lie in a foreign tensor: none if it is ignored.

        Where one tensor holds all layers the names have `{i}` in place of the number.

        Raises:
            WeightError: if the map knows nothing of the tensor.
        """
        found = self._row_of(self.full_name(name))
        return tuple(_filled(part, found[1]) for part in found[0].parts) if found else ()

    def layout(self, name: str) -> str:
        """Return how the axes of a foreign tensor lie, seen from ours."""
        found = self._row_of(self.full_name(name))
        return found[0].layout if found else ""

    def knows(self, name: str) -> bool:
        """Tell whether a foreign tensor has a row, or is ignored on purpose."""
        try:
            return bool(self.full_name(name))
        except WeightError:
            return False

    def _row_of(self, name: str) -> tuple[Row, re.Match[str]] | None:
        return next(iter(self._theirs.of(name)), None)

    # --------------------------------------------------------------------------------------------------- places

    def places(self, params: Params) -> dict[str, tuple[Place, ...]]:
        """Return for every canonical parameter where it lies among the foreign tensors: in one, or cut into several."""
        layers: dict[str, int] = {}
        for name in params:
            for foreign, row, _ in self._rows_of(name):
                layers[foreign] = layers.get(foreign, 0) + (row.over == "layers")
        return {
            name: tuple(self._place(name, params, *found, layers[found[0]]) for found in self._rows_of(name))
            for name in params
        }

    def _place(self, name: str, params: Params, foreign: str, row: Row, number: int, layers: int) -> Place:
        match = _pattern(row.parts[number]).fullmatch(name)
        assert match is not None  # `_rows_of` matched the same pattern
        size = params[name].shape[0] if params[name].shape else 1
        if row.over == "layers":
            layer = int(match["i"])
            return Place(foreign, layer, layer + 1, layers, row)
        if row.rows:
            start, stop = row.rows
            return Place(foreign, 0, stop - start, stop - start, row, start)
        parts = [_filled(part, match) for part in row.parts]
        if lacking := [part for part in parts if len(parts) > 1 and part not in params]:
            raise WeightError(f"WeightMap: {foreign!r} must find all its parts, got none for {lacking[0]!r}")
        rows = [params[part].shape[0] if len(parts) > 1 else size for part in parts]
        start = sum(rows[:number])
        return Place(foreign, start, start + size, sum(rows), row)

    def recipes(self, params: Params, sizes: Mapping[str, int] | None = None) -> dict[str, Recipe]:
        """Return the foreign tensors that a parameter table becomes, and how each is made."""
        parts: dict[str, list[tuple[int, str, Place]]] = {}
        for name, places in self.places(params).items():
            for place in places:
                parts.setdefault(place.name, []).append((place.start, name, place))
        made = {}
        for foreign, found in parts.items():
            names = tuple(name for _, name, _ in sorted(found, key=lambda each: each[0]))
            place, own = found[0][2], params[found[0][1]].shape
            shape = (place.rows, *(own if place.row.over == "layers" else own[1:])) if own else ()
            made[foreign] = Recipe(foreign, layout_shape(shape, place.layout, sizes or {}), names, place.row)
        return made

    def shapes(self, params: Params, sizes: Mapping[str, int] | None = None) -> dict[str, tuple[int, ...]]:
        """Return the foreign tensors that a parameter table becomes, with their shapes."""
        return {name: recipe.shape for name, recipe in self.recipes(params, sizes).items()}

    # ---------------------------------------------------------------------------------------------------- proof

    def prove(self, params: Params) -> None:
        """Prove that the map covers a parameter table, both ways.

        Raises:
            WeightError: if a parameter has no place, or a foreign tensor is not used up exactly once.
        """
        if self._uneven:
            row = self._uneven[0]
            raise WeightError(f"WeightMap: {row.theirs!r} must hold a number where ours does, got {row.parts[0]!r}")
        used: dict[str, list[Place]] = {}
        for name, places in self.places(params).items():
            size = params[name].shape[0] if params[name].shape else 1
            if places[0].row.rows and not _covered([(p.first, p.first + p.rows) for p in places], size):
                rows = [place.row.rows for place in places]
                raise WeightError(f"WeightMap: {name!r} must lie there exactly once, got rows {rows} of {size}")
            for place in places:
                self._prove_the_way_back(name, place)
                used.setdefault(place.name, []).append(place)
        for foreign, found in used.items():
            spans = [(place.start, place.stop) for place in found]
            if found[0].row.over == "copies":
                spans = list(dict.fromkeys(spans))
            if not _covered(spans, found[0].rows):
                raise WeightError(f"WeightMap: {foreign!r} must be used up exactly once, got rows {sorted(spans)}")

    def _prove_the_way_back(self, name: str, place: Place) -> None:
        ours = self.ours(place.name)
        if not any(_pattern(each).fullmatch(name) for each in ours):
            raise WeightError(f"WeightMap: {name!r} must come back from {place.name!r}, got {ours}")


class _Lines(Generic[T]):
    """Lines found by a name, in order: at once where their name has no number to be filled in."""

    def __init__(self, lines: Iterable[tuple[str, T]]) -> None:
        self._exact: dict[str, list[tuple[int, T]]] = {}
        self._patterns: list[tuple[int, re.Pattern[str], T]] = []
        for number, (template, line) in enumerate(lines):
            if "{i}" in template:
                self._patterns.append((number, _pattern(template), line))
            else:
                self._exact.setdefault(template, []).append((number, line))

    def of(self, name: str) -> list[tuple[T, re.Match[str]]]:
        """Return the lines that a name fits, each with its match."""
        exact = [(number, line, _pattern(name).fullmatch(name)) for number, line in self._exact.get(name, ())]
        found = exact + [(number, line, pattern.fullmatch(name)) for number, pattern, line in self._patterns]
        return [(line, match) for _, line, match in sorted(found, key=lambda each: each[0]) if match]


def _covered(spans: Sequence[tuple[int, int]], rows: int) -> bool:
    """Tell whether spans lie one after the other from the first row to the last."""
    ends = [0, *(stop for _, stop in sorted(spans))]
    return [start for start, _ in sorted(spans)] == ends[:-1] and ends[-1] == rows


@lru_cache(4096)
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\{i\}", r"(?P<i>\d+)", 1).replace(r"\{i\}", r"(?P=i)"))


def _filled(template: str, match: re.Match[str]) -> str:
    number = match.groupdict().get("i")
    return template if number is None else template.replace("{i}", number)
