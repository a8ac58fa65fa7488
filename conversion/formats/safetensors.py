"""The safetensors format: one file, or shards with an index; read lazily, written tensor by tensor."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from xlcore.config import read_json_object
from xlcore.errors import ConfigError, FormatError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
OURS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("float64"),
    "F32": np.dtype("float32"),
    "F16": np.dtype("float16"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("int64"),
    "I32": np.dtype("int32"),
    "I16": np.dtype("int16"),
    "I8": np.dtype("int8"),
    "U8": np.dtype("uint8"),
    "BOOL": np.dtype("bool"),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its name, shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """The bytes of its data."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class Reader:
    """All tensors of a folder's safetensors file or shards; nothing is read until it is asked for.

    Raises:
        FormatError: for a missing shard, a damaged file, an index that names what is not there, or a dtype that
            numpy cannot hold.
    """

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Path] = {}
        self._entries: dict[str, Entry] = {}
        for file, names in _listed(folder):
            with _opened(file) as opened:
                for name in names or opened.keys():
                    self._entries[name] = _entry(file, opened, name)
                    self._files[name] = file

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def read(self, name: str) -> "np.ndarray[Any, Any]":
        """Read one tensor."""
        file = self._files[name]
        with _opened(file) as opened:
            array: np.ndarray[Any, Any] = opened.get_tensor(name)
        return array


def _listed(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each file of a folder with the names that its index gives it; no names without an index."""
    if (folder / WEIGHTS).is_file():
        yield folder / WEIGHTS, []
        return
    if not (folder / INDEX).is_file():
        raise FormatError(f"{folder}: must hold {WEIGHTS} or {INDEX}, got {_seen(folder)}")
    try:
        weight_map = read_json_object(folder / INDEX).get("weight_map")
    except ConfigError as error:
        raise FormatError(str(error)) from error
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise FormatError(f"{folder / INDEX}: weight_map must map tensors to files, got {type(weight_map).__name__}")
    for file in sorted(set(weight_map.values())):
        if Path(file).name != file:
            raise FormatError(f"{folder / INDEX}: weight_map must name files of the same folder, got {file!r}")
        yield folder / file, [name for name, where in weight_map.items() if where == file]


def _seen(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    return ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "an empty folder"


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="numpy") as opened:
            yield opened
    except FileNotFoundError as error:
        raise FormatError(f"{file}: must be there, as its index says, got no such file") from error
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{file}: must be a whole safetensors file, got: {error}") from error


def _entry(file: Path, opened: Any, name: str) -> Entry:
    view = opened.get_slice(name)
    code = view.get_dtype()
    if code not in DTYPES:
        raise FormatError(f"{file}: {name!r} must have a dtype among {', '.join(DTYPES)}, got {code}")
    return Entry(name, tuple(view.get_shape()), DTYPES[code])


# ------------------------------------------------------------------------------------------------------- writing


def shards(entries: Iterable[Entry], max_bytes: int) -> list[list[Entry]]:
    """Deal tensors out to files of at most `max_bytes`, in order; a tensor larger than that has a file of its own."""
    dealt: list[list[Entry]] = [[]]
    room = max_bytes
    for entry in entries:
        if dealt[-1] and entry.nbytes > room:
            dealt.append([])
            room = max_bytes
        dealt[-1].append(entry)
        room -= entry.nbytes
    return dealt


def write(folder: Path, entries: list[Entry], read: Mapping[str, Any], max_bytes: int) -> None:
    """Write tensors into a folder as one file, or as shards with an index if they exceed `max_bytes`.

    Args:
        entries: what will be written, in order.
        read: from a name to a function that returns the array; called once, when its turn comes.
    """
    dealt = shards(entries, max_bytes)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(dealt, 1):
        file = WEIGHTS if len(dealt) == 1 else f"model-{number:05d}-of-{len(dealt):05d}.safetensors"
        weight_map |= {entry.name: file for entry in shard}
        with (folder / file).open("wb") as stream:
            _write_file(stream, shard, read)
    if len(dealt) > 1:
        total = sum(entry.nbytes for entry in entries)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_file(stream: BinaryIO, entries: list[Entry], read: Mapping[str, Any]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses a file without it
    offset = 0
    for entry in entries:
        offsets = [offset, offset + entry.nbytes]
        header[entry.name] = {"dtype": CODES[entry.dtype], "shape": list(entry.shape), "data_offsets": offsets}
        offset = offsets[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data starts at a multiple of 8
    stream.write(len(text).to_bytes(8, "little") + text)
    for entry in entries:
        array = np.ascontiguousarray(read[entry.name](), dtype=entry.dtype)
        if array.shape != entry.shape:
            raise FormatError(f"safetensors: {entry.name!r} must have shape {entry.shape}, got {array.shape}")
        stream.write(array.reshape(-1).view("uint8").data)
