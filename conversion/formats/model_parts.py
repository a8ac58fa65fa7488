"""A model that fairseq trained in parts, each in a torch file of its own: joined while it is read, cut while written.

Every part has all tensors by the same names: some cut along an axis, `xlcore.maps.fairseq.CUT` says which, the others
whole and equal in all parts.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conversion.formats import base, flat_shards, torch_files
from conversion.formats.base import Entry, Index, Tensor
from xlcore.errors import FormatError
from xlcore.maps.fairseq import axis_of

_WHOLE = "model.pt"
_NAME = re.compile(r"(.+?)(-model_part-|_part)(\d{1,4})(\.pt)")
# What fairseq calls shards, those of a part, and what fairscale calls the run of parameters in one.
_SHARD = re.compile(r"(.+?)(-shard)(\d{1,4})(\.pt)")
_PARTED = re.compile(r".+-model_part-\d+-shard\d+\.pt")
_FLAT = re.compile(r"(.+\.)?flat_param(_\d+)?")
_HEADS = re.compile(r"(.+\.)?(lm_head|classification_heads\.[^.]+)\.dense\.(weight|bias)")
_WIDTH = re.compile(r"(.+\.)?embed_tokens\.weight")


def open_torch(path: Path) -> base.Reader:
    """Open a torch file, shards with an index, the parts of a model, or the shards of one.

    Raises:
        FormatError: besides what readers raise, for shards that nothing tells how to join.
    """
    files = parts_of(path)
    if len(files) > 1:
        return Reader(files)
    files = _numbered(path, _SHARD, "shards")
    first = torch_files.Reader(files[0] if files else path)
    if files and flat_shards.TOLD in first.extras and not _PARTED.fullmatch(files[0].name):
        return flat_shards.Reader(files)
    _refuse_shard(first, path)
    return torch_files.Reader(path) if files else first


def _refuse_shard(reader: base.Reader, path: Path) -> None:
    """Raise FormatError for flat runs of numbers, of which nobody knows what they hold."""
    if any(_FLAT.fullmatch(name) for name in reader) or _PARTED.fullmatch(reader.files[0].name):
        what = "a model must be whole, in parts, or in shards that tell what they hold"
        join = "join the shards by fairscale's consolidate_shard_weights"
        raise FormatError(f"{path}: {what}, got a shard of fully sharded training (FSDP); {join}")


def parts_of(path: Path) -> list[Path]:
    """Return the files of all parts, if a path is one of them, or a folder with the parts of one model.

    Raises:
        FormatError: if one is missing.
    """
    return _numbered(path, _NAME, "parts")


def _numbered(path: Path, pattern: re.Pattern[str], what: str) -> list[Path]:
    """Return the numbered files of one model, if a path is one of them, or a folder with them and no others."""
    folder, wanted = (path.parent, pattern.fullmatch(path.name)) if path.is_file() else (path, None)
    if path.is_file() and not wanted:
        return []
    found: dict[tuple[str, ...], dict[int, Path]] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (match := pattern.fullmatch(file.name)) and file.is_file():
            found.setdefault(match.group(1, 2, 4), {})[int(match[3])] = file
    groups = [found[wanted.group(1, 2, 4)]] if wanted else list(found.values())
    if len(groups) != 1 or (not wanted and _others(folder, groups[0].values())):
        return []
    numbers = sorted(groups[0])
    if numbers != list(range(len(numbers))):
        told = ", ".join(map(str, numbers))
        raise FormatError(f"{path}: {what} of a model must be numbered from 0 without a gap, got {told}")
    return [groups[0][number] for number in numbers]


def _others(folder: Path, parts: Collection[Path]) -> bool:
    """Tell whether other torch files lie beside the parts: which is meant, nobody knows."""
    files = [file for file in folder.iterdir() if file.suffix in torch_files.SUFFIXES and file not in parts]
    return any(not re.match(torch_files.SKIPPED, file.name) for file in files)


class Reader(base.Reader):
    """All tensors of a model in parts, joined.

    Args:
        files: the parts, in their order.

    Raises:
        FormatError: if they are not the parts of one model.
    """

    format = "torch"

    def __init__(self, files: list[Path]) -> None:
        self._parts = [torch_files.Reader(file) for file in files]
        first, *others = self._parts
        for part in others:
            if apart := sorted(set(first) ^ set(part)):
                raise FormatError(
                    f"{part.files[0]}: a part must have the tensors of the others, got {apart[0]!r} in one"
                )
        self.files = tuple(files)
        self.extras, self.aside = first.extras, first.aside
        self.shared = {
            name: other
            for name, other in first.shared.items()
            if all(part.shared.get(name) == other for part in others)
        }
        self._width = next((first[name].shape[-1:] for name in first if _WIDTH.fullmatch(name)), ())
        self._axes = {name: self._axis_of(name) for name in first}
        self._tensors: dict[str, Entry] = {name: self._joined(name) for name in first}
        self.notes = (*first.notes, f"joined {len(files)} parts of one model")

    def _axis_of(self, name: str) -> int | None:
        """Return the axis along which a tensor is cut; a head's first map may be whole."""
        axis = axis_of(name)
        shapes = [part[name].shape for part in self._parts]
        if axis is None or any(len(shape) <= axis for shape in shapes):
            return None
        whole = _HEADS.fullmatch(name) and shapes[0][:1] == self._width
        return None if whole else axis

    def _joined(self, name: str) -> Entry:
        entries, axis = [part[name] for part in self._parts], self._axes[name]
        shapes = [list(entry.shape) for entry in entries]
        if axis is not None:
            total = sum(shape[axis] for shape in shapes)
            shapes = [[*shape[:axis], total, *shape[axis + 1 :]] for shape in shapes]
        for file, shape, entry in zip(self.files, shapes, entries, strict=True):
            if (shape, entry.dtype) != (shapes[0], entries[0].dtype):
                wanted = f"{entries[0].dtype} {list(entries[0].shape)}"
                got = f"{entry.dtype} {list(entry.shape)}"
                raise FormatError(f"{file}: {name!r} must fit that of the first part, {wanted}, got {got}")
        return Entry(name, tuple(shapes[0]), entries[0].dtype)

    def __getitem__(self, name: str) -> Entry:
        return self._tensors[name]

    def read(self, name: str) -> Tensor:
        """Read one tensor, part after part.

        Raises:
            FormatError: if a tensor that each part has whole is not the same in all.
        """
        axis, entry = self._axes[name], self._tensors[name]
        if axis is None:
            return self._same(name)
        whole, start = np.empty(entry.shape, entry.dtype), 0
        for part in self._parts:
            stop = start + part[name].shape[axis]
            whole[(slice(None),) * axis + (slice(start, stop),)] = part.read(name)
            start = stop
        return whole

    def _same(self, name: str) -> Tensor:
        first, *others = self._parts
        found = first.read(name)
        for part in others:
            if not np.array_equal(found, part.read(name), equal_nan=found.dtype.kind == "f"):
                raise FormatError(f"{part.files[0]}: {name!r} must be that of the first part, got other numbers")
        return found


# ------------------------------------------------------------------------------------------------------- writing


class Writer(base.Writer):
    """The plan of a model in parts; see `base.Writer`.

    Args:
        entries: the tensors of the whole model.
        max_bytes: passed over: a part is one file.
        extras: what each part holds beside its tensors.
        shared: further names for some of the entries, in each part.
        name: what the whole model's file would be called; parts are called after it.
        parts: how many.

    Raises:
        FormatError: for a tensor that cannot be cut into so many equal parts, or that torch has not.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        max_bytes: int = 0,
        extras: Mapping[str, Any] | None = None,
        shared: Mapping[str, str] | None = None,
        name: str = "",
        parts: int = 2,
    ) -> None:
        stem, _, suffix = (name or _WHOLE).rpartition(".")
        self.files = tuple(f"{stem}-model_part-{number}.{suffix}" for number in range(parts))
        dealt = [_dealt(entry, parts) for entry in entries]
        self._indices = {entry.name: indices for entry, (_, indices) in zip(entries, dealt, strict=True)}
        each = [part for part, _ in dealt]
        self._parts = [torch_files.Writer(each, extras=extras, shared=shared, name=file) for file in self.files]
        self.sum = self._parts[0].sum
        self.places = {
            _key(tensor, number): place
            for number, part in enumerate(self._parts)
            for tensor, place in part.places.items()
        }

    def pieces(self, name: str) -> Mapping[str, Index]:
        """Return the index of what each part has of a tensor, by its key in `places`."""
        return {_key(name, number): index for number, index in enumerate(self._indices[name])}

    def begin(self, folder: Path) -> None:
        """Make the files, with everything but the tensors and their checksums."""
        for part in self._parts:
            part.begin(folder)

    def end(self, folder: Path, sums: Mapping[str, int]) -> None:
        """Write the checksums of the pieces into the parts."""
        for number, part in enumerate(self._parts):
            part.end(folder, {name: sums[_key(name, number)] for name in self._indices})


def _dealt(entry: Entry, count: int) -> tuple[Entry, list[Index]]:
    """Return a tensor as each of so many parts has it, and where in the whole that lies for each."""
    axis = axis_of(entry.name)
    if axis is None or len(entry.shape) <= axis:
        return entry, [(...,)] * count
    size, rest = divmod(entry.shape[axis], count)
    if rest:
        what = f"{entry.name!r} must have a multiple of {count} numbers along axis {axis} to be cut into {count} parts"
        raise FormatError(f"torch: {what}, got {list(entry.shape)}; choose another number of parts")
    shape = (*entry.shape[:axis], size, *entry.shape[axis + 1 :])
    before = (slice(None),) * axis
    indices: list[Index] = [(*before, slice(number * size, (number + 1) * size)) for number in range(count)]
    return Entry(entry.name, shape, entry.dtype), indices


def _key(name: str, number: int) -> str:
    """Return the key of a part's piece of a tensor; the first goes by the tensor's name."""
    return f"{name} in part {number}" if number else name
