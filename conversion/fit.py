"""How the tensors of one checkpoint fit the parameters of one model, and reading them in canonical names."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from conversion.blocks import is_finite
from conversion.formats.base import Reader, Tensor
from xlcore.config import Config
from xlcore.errors import WeightError
from xlcore.families import family_of
from xlcore.heads import Head
from xlcore.origin import Origin
from xlcore.params import Params
from xlcore.weightmap import Place, WeightMap, to_ours

_ROWS = 1 << 22  # numbers that are looked at in one go


@dataclass
class LoadingInfo:
    """What a file lacked, had too much, or had in another shape, by the names in the file.

    Attributes:
        missing_keys: needed by the model, not in the file.
        unexpected_keys: in the file, of no use to the model or to any model of its family.
        mismatched_keys: name, shape in the file, shape in the model.
        other_head_keys: in the file, for a head that this model does not have.
        new_head_keys: the whole head of this model, where the file was saved without it.
    """

    missing_keys: list[str] = field(default_factory=list)
    unexpected_keys: list[str] = field(default_factory=list)
    mismatched_keys: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    other_head_keys: list[str] = field(default_factory=list)
    new_head_keys: list[str] = field(default_factory=list)


class Fit:
    """For every parameter of a model the tensors that it comes from, found by names and shapes alone.

    Args:
        path: what was opened, for messages.
        reader: the tensors.
        origin: whose they are.
        config: of the model.
        head: of the model.

    Attributes:
        info: what does not fit.
        chosen: for every parameter that the file has, under which names: the last counts, as in transformers.
        filled: parameters that the origin leaves out because they have one possible value.
        files: the tensors' names in the file by their name in the map.
    """

    def __init__(self, path: Path, reader: Reader, origin: Origin, config: Config, head: Head) -> None:
        self.path, self.reader, self.head, self.info = path, reader, head, LoadingInfo()
        family = family_of(config)
        self.weights = origin.weights(config, head)
        self.params, self.sizes = family.params(config, head), config.sizes
        self._of_heads = {name.split(".")[0] for each in family.heads for name in each.params(config)}
        self.ties = {
            alias: name for alias, name in family.ties_within(config, head).items() if _has_row(self.weights, alias)
        }
        known = {name: param for name, param in self.params.items() if _has_row(self.weights, name)}
        table = {**known, **{alias: self.params[name] for alias, name in self.ties.items()}}
        self.places, self.recipes = self.weights.places(table), self.weights.recipes(table, self.sizes)
        self.files = self._named(origin)
        self.filled: dict[str, str] = {}
        self._held: tuple[str, Tensor, bool] | None = None  # the last tensor, and whether it was looked at
        self.chosen = self._choose(head.params(config))
        self._account_for_the_rest()

    # ------------------------------------------------------------------------------------------------- by names

    def _named(self, origin: Origin) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, plain in origin.plain(self.reader).items():
            full = self.weights.full_name(plain) if self.weights.knows(plain) else plain
            if full in found:
                raise WeightError(
                    f"{self.path}: {name!r} must be another tensor than {found[full]!r}, got one name for both"
                )
            found[full] = name
        return found

    def _choose(self, own: Params) -> dict[str, list[str]]:
        chosen: dict[str, list[str]] = {}
        for name in self.params:
            if name not in self.places:  # of a head that the origin never had
                self.info.missing_keys.append(name)
                continue
            names = [name, *(alias for alias, first in self.ties.items() if first == name)]
            present = [each for each in names if all(place.name in self.files for place in self.places[each])]
            if present:
                misfits = [place for place in self.places[present[-1]] if not self._fits(place.name)]
                chosen |= {} if misfits else {name: present}
            elif value := self._implied(name):
                self.filled[name] = value
            else:
                lacking = (place.name for place in self.places[name] if place.name not in self.files)
                self.info.missing_keys += lacking
        head_keys = {key for name in own for key in self._keys(name)}
        outer = {key for key in head_keys if not self._within_body(key)} or head_keys  # pooling layers stand in bodies
        if outer and outer <= set(self.info.missing_keys):
            self.info.new_head_keys = [key for key in self.info.missing_keys if key in head_keys]
            self.info.missing_keys = [key for key in self.info.missing_keys if key not in head_keys]
        self.info.missing_keys = list(dict.fromkeys(self.info.missing_keys))
        return chosen

    def _within_body(self, full: str) -> bool:
        return bool(self.weights.prefix) and full.startswith(self.weights.prefix)

    def _keys(self, name: str) -> list[str]:
        """Return what the tensors of a parameter are called in the file; as it is itself, where nothing tells."""
        return [place.name for place in self.places[name]] if name in self.places else [name]

    def _implied(self, name: str) -> str:
        """Return what a parameter is whose tensor the origin leaves out; "" if it never does."""
        value, shape = self.places[name][0].row.absent, self.params[name].shape
        square = len(shape) == 2 and shape[0] == shape[1]
        return value if value != "identity" or square else ""

    def _fits(self, foreign: str) -> bool:
        theirs, ours = self.reader[self.files[foreign]].shape, self.recipes[foreign].shape
        if theirs != ours and (foreign, theirs, ours) not in self.info.mismatched_keys:
            self.info.mismatched_keys.append((foreign, theirs, ours))
        return theirs == ours

    def _account_for_the_rest(self) -> None:
        """Sort every tensor that the model does not use into those for another head and those for nothing."""
        parts = {name.split(".")[0] for name in self.places}
        for full, name in self.files.items():
            if full in self.recipes:
                continue
            known = self.weights.knows(full)
            ours = self.weights.ours(full) if known else (full,)
            part = ours[0].split(".")[0] if ours else ""
            another_head = known and (not self._within_body(full) or part in self._of_heads)
            if another_head and ours and part not in parts:
                self.info.other_head_keys.append(name)
            elif ours:
                self.info.unexpected_keys.append(name)

    # ------------------------------------------------------------------------------------------------- by values

    def read(self, name: str, *, finite: bool = True) -> Tensor:
        """Read one parameter in canonical layout; what lies in one tensor with it can be read next without the file.

        Under the second name of a tied parameter its own tensor is read.

        Raises:
            WeightError: if the tensor holds NaN or infinity, unless `finite` is off.
        """
        if name in self.filled:
            shape = self.params[name].shape
            return (
                np.eye(shape[0], dtype=self.dtype) if self.filled[name] == "identity" else np.zeros(shape, self.dtype)
            )
        pieces = [self._piece(name, place, finite) for place in self.places[self.chosen.get(name, [name])[-1]]]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def mapped(self, name: str) -> Tensor | None:
        """Return one parameter where it lies in the file, mapped; None if it does not lie there as it is in a model.

        Nothing is looked at: it may hold NaN.
        """
        names = self.chosen.get(name, [])
        places = (
            self.places[names[0]] if len(names) == 1 else ()
        )  # copies are held against each other, so they are read
        whole = self.reader.mapped(self.files[places[0].name]) if len(places) == 1 else None
        array = None if whole is None else self._taken(name, places[0], whole)
        return array if array is not None and array.flags.c_contiguous and np.may_share_memory(array, whole) else None

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The dtype of parameters that no tensor holds: that of the first one that does."""
        return next(
            (self.reader[name].dtype for full, name in self.files.items() if full in self.recipes), np.dtype("f4")
        )

    def dtype_of(self, name: str) -> np.dtype[np.generic]:
        """Return the dtype in which a parameter is read."""
        if name in self.filled:
            return self.dtype
        return self.reader[self.files[self.places[self.chosen[name][-1]][0].name]].dtype

    def _piece(self, name: str, place: Place, finite: bool) -> Tensor:
        return self._taken(name, place, self._hold(place.name, finite))

    def _hold(self, foreign: str, finite: bool) -> Tensor:
        """Read a tensor unless it is the one that was read last."""
        held = self._held
        if held is None or held[0] != foreign or held[2] < finite:
            self._held = held = None  # before the next one is read: never two at a time
            self._held = held = foreign, self._whole(foreign, finite), finite
        return held[1]

    def forget(self) -> None:
        """Let go of the tensor that was read last."""
        self._held = None

    def _taken(self, name: str, place: Place, array: Tensor) -> Tensor:
        shape = self.params[self.ties.get(name, name)].shape
        whole: Tensor = to_ours(array, place.layout, self.sizes)
        if place.row.rows:
            shape = (place.rows, *shape[1:])
        return (whole[place.start : place.stop] if whole.ndim else whole).reshape(shape)

    def _whole(self, foreign: str, finite: bool) -> Tensor:
        array = self.reader.read(self.files[foreign])
        if finite and not is_finite(array):
            raise WeightError(f"{self.path}: {self.files[foreign]!r} must be finite, got NaN or infinity in it")
        return array

    def differing(self, name: str, *, finite: bool = True) -> Iterator[tuple[str, str]]:
        """Yield the tensors of a parameter that hold other values than the one that counts, and that one's name."""
        *others, last = self.chosen.get(name, [name])
        for other in others:
            for one, used in zip(self.places[other], self.places[last], strict=True):
                if self._differ(one, used, finite):
                    yield one.name, used.name

    def _differ(self, one: Place, other: Place, finite: bool) -> bool:
        names = {self.files[place.name] for place in (one, other)}
        if len({self.reader.shared.get(name, name) for name in names}) == 1:
            return False
        if self.reader[self.files[one.name]].shape != self.reader[self.files[other.name]].shape:
            return True
        pairs = zip(_parts(self._hold(other.name, finite)), _parts(self._whole(one.name, finite)), strict=True)
        return not all(np.array_equal(ours, theirs) for ours, theirs in pairs)


def _has_row(weights: WeightMap, name: str) -> bool:
    try:
        return bool(weights.theirs(name))
    except WeightError:
        return False


def _parts(array: Tensor) -> Sequence[Tensor]:
    """Cut an array along its first axis, so that what is computed of it takes little room."""
    rows = max(1, _ROWS * len(array) // max(1, array.size)) if array.ndim else 1
    return [array[start : start + rows] for start in range(0, len(array), rows)] if array.ndim else [array]
