"""The safetensors format: one file, or shards with an index; read lazily, written tensor by tensor."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from conversion.formats import base
from conversion.formats.base import Entry, Place, Tensor, lay, read_array, refuse_shared
from conversion.formats.sharding import SUFFIX, find, index_text, read_index, shard_names, shards
from xlcore.errors import FormatError

__all__ = ["DTYPES", "INDEX", "OURS", "WEIGHTS", "Entry", "Reader", "Writer", "shards", "write"]

WEIGHTS = "model.safetensors"
INDEX = WEIGHTS + SUFFIX
OURS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("float64"),
    "F32": np.dtype("float32"),
    "F16": np.dtype("float16"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("int64"),
    "I32": np.dtype("int32"),
    "I16": np.dtype("int16"),
    "I8": np.dtype("int8"),
    "U64": np.dtype("uint64"),
    "U32": np.dtype("uint32"),
    "U16": np.dtype("uint16"),
    "U8": np.dtype("uint8"),
    "BOOL": np.dtype("bool"),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


class Reader(base.Reader):
    """All tensors of a safetensors file or of shards; nothing is read until it is asked for.

    `extras` holds the metadata of the header: texts by name.

    Args:
        path: a file, an index, or a folder with `model.safetensors`, its index, or one file or index of another name.

    Raises:
        FormatError: for a missing shard, a damaged file, an index that names what is not there, or a dtype that
            numpy cannot hold.
    """

    format = "safetensors"

    def __init__(self, path: Path) -> None:
        self._places: dict[str, tuple[Path, int]] = {}
        self._tensors: dict[str, Entry] = {}
        found, is_index = find(Path(path), WEIGHTS, [".safetensors"])
        listed = dict(read_index(found)) if is_index else {found: []}
        self.files = (*([found] if is_index else []), *listed)
        self.extras = {}
        for file, names in listed.items():
            header, start = _header(file)
            self.extras |= header.pop("__metadata__", {})
            if lacking := [name for name in names if name not in header]:
                raise FormatError(f"{file}: must hold {lacking[0]!r}, as its index says, got a file without it")
            for name in header:
                self._add(file, name, header[name], start)

    def _add(self, file: Path, name: str, told: Mapping[str, Any], start: int) -> None:
        if name in self._tensors:
            raise FormatError(f"{file}: {name!r} must lie in one file, got it in {self._places[name][0].name}, too")
        if told["dtype"] not in DTYPES:
            raise FormatError(f"{file}: {name!r} must have a dtype among {', '.join(DTYPES)}, got {told['dtype']}")
        self._tensors[name] = Entry(name, tuple(told["shape"]), DTYPES[told["dtype"]])
        self._places[name] = file, start + told["data_offsets"][0]

    def __getitem__(self, name: str) -> Entry:
        return self._tensors[name]

    def read(self, name: str) -> Tensor:
        """Read one tensor."""
        entry = self._tensors[name]
        return read_array(*self._places[name], entry.shape, entry.dtype)

    def mapped(self, name: str) -> Tensor | None:
        """Map one tensor; None if it has no numbers, or lies where numbers of its dtype may not."""
        entry, (file, offset) = self._tensors[name], self._places[name]
        if not entry.nbytes or offset % entry.dtype.alignment:
            return None
        return np.asarray(np.memmap(file, entry.dtype, "c", offset, entry.shape))


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """Return the header of a file and where its data starts; the library of the format has checked it before."""
    try:
        with safe_open(file, framework="numpy"):  # no two tensors overlap, and none leaves the file
            pass
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header: dict[str, Any] = json.loads(stream.read(size), object_pairs_hook=_once)
    except FileNotFoundError as error:
        raise FormatError(f"{file}: must be there, as its index says, got no such file") from error
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{file}: must be a whole safetensors file, got: {error}") from error
    return header, 8 + size


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("header: every name must stand in it once, got one twice")
    return found


# ------------------------------------------------------------------------------------------------------- writing


class Writer(base.Writer):
    """The plan of a safetensors file, or of shards with an index; see `base.Writer`.

    `extras` become the header's metadata, which holds texts only.

    Raises:
        FormatError: for a dtype that the format has no code for, or extras that are no texts.
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
        refuse_shared("safetensors", shared)
        metadata = {"format": "pt", **(extras or {})}  # transformers refuses a file without a format
        if wrong := [key for key, value in metadata.items() if not isinstance(value, str)]:
            raise FormatError(f"safetensors: extras must be texts, got another value for {wrong[0]!r}")
        dealt = shards(entries, max_bytes)
        names = shard_names(name or WEIGHTS, len(dealt))
        self.places: dict[str, Place] = {}
        self._headers = {file: self._plan(file, shard, metadata) for file, shard in zip(names, dealt, strict=True)}
        self._index = index_text(entries, {each: place.file for each, place in self.places.items()})
        self._index_file = (name or WEIGHTS) + SUFFIX if len(names) > 1 else ""
        self.files = (*names, *filter(None, [self._index_file]))

    def _plan(self, file: str, shard: Sequence[Entry], metadata: Mapping[str, str]) -> tuple[bytes, int]:
        """Plan one file: return its header and its size."""
        header: dict[str, Any] = {"__metadata__": metadata}
        end = 0
        for entry in shard:
            if entry.dtype not in CODES:
                known = ", ".join(str(dtype) for dtype in CODES)
                raise FormatError(f"safetensors: {entry.name!r} must have a dtype among {known}, got {entry.dtype}")
            start, end = end, end + entry.nbytes
            told = {"dtype": CODES[entry.dtype], "shape": list(entry.shape), "data_offsets": [start, end]}
            header[entry.name] = told
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # data starts at a multiple of 8
        first = 8 + len(text)
        self.places |= {each.name: Place(file, first + header[each.name]["data_offsets"][0]) for each in shard}
        return len(text).to_bytes(8, "little") + text, first + end

    def begin(self, folder: Path) -> None:
        """Make the files, with header and index."""
        for file, (header, size) in self._headers.items():
            lay(folder / file, size, [(0, header)])
        if self._index_file:
            (folder / self._index_file).write_text(self._index, encoding="utf-8")

    def end(self, folder: Path, sums: Mapping[str, int]) -> None:
        """Write nothing: all was known before."""


def write(folder: Path, entries: list[Entry], read: Mapping[str, Any], max_bytes: int) -> None:
    """Write tensors into a folder as one file, or as shards with an index if they exceed `max_bytes`.

    Args:
        entries: what will be written, in order.
        read: from a name to a function that returns the array; called once, when its turn comes.
    """
    plan = Writer(entries, max_bytes=max_bytes)
    plan.begin(folder)
    for entry in entries:
        array = np.ascontiguousarray(read[entry.name](), dtype=entry.dtype)
        if array.shape != entry.shape:
            raise FormatError(f"safetensors: {entry.name!r} must have shape {entry.shape}, got {array.shape}")
        place = plan.places[entry.name]
        with (folder / place.file).open("rb+") as stream:
            stream.seek(place.offset)
            stream.write(array.reshape(-1).view("uint8").data)
