"""Torch files, without torch: the zip and the older stream, one file or shards with an index."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conversion.formats import base
from conversion.formats.base import Entry, Place, Tensor, lay, put, read_array
from conversion.formats.sharding import SUFFIX, find, index_text, read_index, shard_names, shards
from conversion.formats.torch_pickle import CODES, pickled
from conversion.formats.torch_tree import Found, Leaf
from conversion.formats.zips import Member, Zip, crc32
from xlcore import pickles
from xlcore.errors import FormatError
from xlcore.inert import HERE, Stored

__all__ = ["HERE", "Reader", "Writer"]

WEIGHTS = "pytorch_model.bin"
SUFFIXES = (".bin", ".pt", ".pth")
# What training programs leave beside the weights under the same suffixes; a tokenizer's vocabulary may, too.
SKIPPED = r"(training_args|optimizer|scheduler|rng_state|scaler|vocab|cache|dict)[._]"
_SLACK = 16 << 20  # bytes that may be read in vain for a tensor that lies scattered
_TOP = "archive"
_ALIGN = 64


class Reader(base.Reader):
    """All tensors of the model in a torch file or in shards; nothing of a file is run, and nothing read before time.

    `extras` holds what else the file holds, `HERE` in the place of the state dict; objects of classes are
    `Placeholder`s there. `shared` tells tied tensors: names for the same bytes.

    Args:
        path: a file, an index, or a folder with `pytorch_model.bin`, its index, or one file of another name.

    Raises:
        FormatError: for a missing shard, a damaged file, one without tensors, an index that names what is not there.
    """

    format = "torch"

    def __init__(self, path: Path) -> None:
        self._tensors: dict[str, tuple[Path, Leaf]] = {}
        found, is_index = find(Path(path), WEIGHTS, SUFFIXES, SKIPPED)
        listed = dict(read_index(found)) if is_index else {found: []}
        self.files = (*([found] if is_index else []), *listed)
        self.extras, self.shared, self.aside, self.notes = {}, {}, {}, ()
        for file, names in listed.items():
            self._open(file, names)

    def _open(self, file: Path, names: Sequence[str]) -> None:
        """List one file; an index that gives names must give all that a model would miss otherwise."""
        try:
            found = Found(pickles.load(file, stored=True), str(file))
        except OSError as error:
            raise FormatError(f"{file}: must be a file that can be read, got {error.strerror or error}") from error
        if lacking := [name for name in names if name not in found.tensors]:
            raise FormatError(f"{file}: must hold {lacking[0]!r}, as its index says, got a file without it")
        if twice := [name for name in found.tensors if name in self._tensors]:
            other = self._tensors[twice[0]][0].name
            raise FormatError(f"{file}: {twice[0]!r} must lie in one file, got it in {other}, too")
        self._tensors |= {name: (file, leaf) for name, leaf in found.tensors.items()}
        self.extras = {**self.extras, **found.extras}
        self.aside = {**self.aside, **{name: _entry(name, leaf) for name, leaf in found.aside.items()}}
        self.shared = {**self.shared, **_shared(found.tensors)}
        self.notes += found.notes

    def __getitem__(self, name: str) -> Entry:
        return _entry(name, self._tensors[name][1])

    def read(self, name: str) -> Tensor:
        """Read one tensor."""
        file, leaf = self._tensors[name]
        if isinstance(leaf, np.ndarray):
            return np.array(leaf)
        array = _read(file, leaf.start, leaf.shape, leaf.strides, leaf.dtype)
        return array.byteswap() if leaf.big else array

    def read_run(self, name: str, start: int, count: int) -> Tensor:
        """Read some numbers of a tensor of one axis."""
        file, leaf = self._tensors[name]
        if isinstance(leaf, np.ndarray):
            return np.array(leaf[start : start + count])
        array = _read(file, leaf.start + start * leaf.strides[0], (count,), leaf.strides, leaf.dtype)
        return array.byteswap() if leaf.big else array


def _entry(name: str, leaf: Leaf) -> Entry:
    return Entry(name, tuple(leaf.shape), leaf.dtype.newbyteorder("=") if leaf.dtype.byteorder == ">" else leaf.dtype)


def _shared(tensors: Mapping[str, Leaf]) -> dict[str, str]:
    """Find the tensors that are the same view of the same storage: second name -> first."""
    first: dict[Any, str] = {}
    shared: dict[str, str] = {}
    for name, leaf in tensors.items():
        if isinstance(leaf, Stored) and 0 not in leaf.shape:
            kept = first.setdefault((leaf.key, leaf.start, leaf.shape, leaf.strides, leaf.dtype), name)
            shared |= {name: kept} if kept != name else {}
    return shared


def _read(file: Path, start: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
    """Read a tensor whose strides may be any, without much that lies between its numbers."""
    steps = _contiguous(shape, dtype.itemsize)
    if all(size == 1 or stride == step for size, stride, step in zip(shape, strides, steps, strict=True)):
        return read_array(file, start, shape, dtype)
    if 0 in shape:
        return np.empty(shape, dtype)
    length = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + dtype.itemsize
    if length <= 2 * math.prod(shape) * dtype.itemsize + _SLACK:
        raw = read_array(file, start, (length,), np.dtype(np.uint8))
        view = np.ndarray(shape, dtype, raw.data, 0, strides)
        return view if length == math.prod(shape) * dtype.itemsize else view.copy()
    axis = max(range(len(shape)), key=lambda axis: (shape[axis] - 1) * strides[axis])
    half = shape[axis] // 2
    whole = np.empty(shape, dtype)
    for first, last in ((0, half), (half, shape[axis])):
        part = (*shape[:axis], last - first, *shape[axis + 1 :])
        cut = (*[slice(None)] * axis, slice(first, last))
        whole[cut] = _read(file, start + first * strides[axis], part, strides, dtype)
    return whole


def _contiguous(shape: Sequence[int], width: int) -> list[int]:
    """Return the strides of a tensor whose numbers lie without gaps, in C order."""
    return [width * math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


# ------------------------------------------------------------------------------------------------------- writing


class Writer(base.Writer):
    """The plan of a torch zip, or of shards with an index; see `base.Writer`.

    `extras` go into the file: plain values, arrays of numbers, dictionaries of them, and an inert `argparse.Namespace`.
    Where `HERE` stands in them, the state dict will; without it the file holds a state dict and nothing else. `shared`
    names share their storage with the entry that they name, as tied tensors do in torch.

    Raises:
        FormatError: for a dtype that torch has not, or extras that cannot be written.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        max_bytes: int = 0,
        extras: Mapping[str, Any] | None = None,
        shared: Mapping[str, str] | None = None,
        name: str = "",
    ) -> None:
        self.sum = crc32
        self.places: dict[str, Place] = {}
        self._zips: dict[str, tuple[Zip, dict[str, str]]] = {}
        for entry in entries:
            if entry.dtype not in CODES:
                known = ", ".join(str(dtype) for dtype in CODES)
                raise FormatError(f"torch: {entry.name!r} must have a dtype among {known}, got {entry.dtype}")
        ties = dict(shared or {})
        if lost := [first for first in ties.values() if first not in {entry.name for entry in entries}]:
            raise FormatError(f"torch: shared names must be names for entries, got one for {lost[0]!r}")
        dealt = shards(entries, max_bytes)
        names = shard_names(name or WEIGHTS, len(dealt))
        for file, shard in zip(names, dealt, strict=True):
            self._plan(file, shard, extras or {}, ties)
        where = {each: place.file for each, place in self.places.items()}
        where |= {tied: where[first] for tied, first in ties.items()}
        self._index = index_text(entries, where)
        self._index_file = (name or WEIGHTS) + SUFFIX if len(names) > 1 else ""
        self.files = (*names, *filter(None, [self._index_file]))

    def _plan(self, file: str, shard: Sequence[Entry], extras: Mapping[str, Any], ties: Mapping[str, str]) -> None:
        within = {entry.name for entry in shard}
        body = pickled(shard, {tied: first for tied, first in ties.items() if first in within}, extras)
        members = [
            Member(f"{_TOP}/data.pkl", len(body), body, _ALIGN),
            Member(f"{_TOP}/byteorder", 6, b"little", _ALIGN),
            *(Member(f"{_TOP}/data/{key}", entry.nbytes, None, _ALIGN) for key, entry in enumerate(shard)),
            Member(f"{_TOP}/version", 2, b"3\n", _ALIGN),
        ]
        plan = Zip(members)
        stored = {entry.name: f"{_TOP}/data/{key}" for key, entry in enumerate(shard)}
        self._zips[file] = plan, stored
        self.places |= {each: Place(file, plan.starts[member]) for each, member in stored.items()}

    def begin(self, folder: Path) -> None:
        """Make the files, with everything but the tensors and their checksums."""
        for file, (plan, _) in self._zips.items():
            lay(folder / file, plan.size, plan.pieces({}))
        if self._index_file:
            (folder / self._index_file).write_text(self._index, encoding="utf-8")

    def end(self, folder: Path, sums: Mapping[str, int]) -> None:
        """Write the checksums of the tensors into the zip."""
        for file, (plan, stored) in self._zips.items():
            with (folder / file).open("rb+") as stream:
                put(stream, plan.pieces({member: sums[each] for each, member in stored.items()}))
