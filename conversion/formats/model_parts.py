"""A model that fairseq trained in parts, each in a torch file of its own: joined while it is read.

Every part has all tensors by the same names: some cut along an axis, `xlcore.maps.fairseq.CUT` says which, the others
whole and equal in all parts.
"""

import re
from collections.abc import Collection
from pathlib import Path

import numpy as np

from conversion.formats import base, torch_files
from conversion.formats.base import Entry, Tensor
from xlcore.errors import FormatError
from xlcore.maps.fairseq import CUT

_NAME = re.compile(r"(.+?)(-model_part-|_part)(\d{1,4})(\.pt)")
_HEADS = re.compile(r"(.+\.)?(lm_head|classification_heads\.[^.]+)\.dense\.(weight|bias)")
_WIDTH = re.compile(r"(.+\.)?embed_tokens\.weight")


def open_torch(path: Path) -> base.Reader:
    """Open a torch file, shards with an index, or the parts of a model."""
    files = parts_of(path)
    return Reader(files) if len(files) > 1 else torch_files.Reader(path)


def parts_of(path: Path) -> list[Path]:
    """Return the files of all parts, if a path is one of them, or a folder with the parts of one model.

    Raises:
        FormatError: if one is missing.
    """
    folder, wanted = (path.parent, _NAME.fullmatch(path.name)) if path.is_file() else (path, None)
    if path.is_file() and not wanted:
        return []
    found: dict[tuple[str, ...], dict[int, Path]] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (match := _NAME.fullmatch(file.name)) and file.is_file():
            found.setdefault(match.group(1, 2, 4), {})[int(match[3])] = file
    groups = [found[wanted.group(1, 2, 4)]] if wanted else list(found.values())
    if len(groups) != 1 or (not wanted and _others(folder, groups[0].values())):
        return []
    numbers = sorted(groups[0])
    if numbers != list(range(len(numbers))):
        told = ", ".join(map(str, numbers))
        raise FormatError(f"{path}: parts of a model must be numbered from 0 without a gap, got {told}")
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
        axis = next((axis for pattern, axis in CUT.items() if re.fullmatch(pattern, name)), None)
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
