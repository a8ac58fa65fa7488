"""TensorFlow's checkpoints (the tensor bundle of its savers, since 2016), without TensorFlow.

A checkpoint is a prefix: `model.ckpt.index` is a table of what there is, `model.ckpt.data-00000-of-00001` the bytes,
`model.ckpt.meta` the graph, which nobody needs. A file `checkpoint` beside it tells the prefix of the newest.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from conversion.formats import base
from conversion.formats.base import Entry, Place, Tensor, lay, read_array, refuse_shared
from conversion.formats.bundle import DTYPES, MOST_SHARDS, OTHERS, Stored, read_index, write_index
from conversion.formats.sharding import shards
from conversion.formats.sstable import MAGIC, masked, sum_of
from xlcore.errors import FormatError
from xlcore.protobuf import read_varint

STATE = "checkpoint"
PREFIX = "model.ckpt"
_DATA = re.compile(r"(.+)\.data-\d{5}-of-\d{5}")

NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
_OTHER_NUMBERS = {kind: number for number, kind in OTHERS.items()}
_MOST_OTHERS = 1 << 23  # bytes
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Other:
    """What a checkpoint holds that is no array of numbers: strings, resources; kept as it lies.

    Attributes:
        kind: TensorFlow's name of its type.
        data: its bytes, or None where all such together are too large to be kept.
        crc: their checksum, as the index has it.
    """

    kind: str
    shape: tuple[int, ...]
    data: bytes | None
    crc: int


# -------------------------------------------------------------------------------------------------- finding the files


def prefix_of(path: Path) -> Path:
    """Return the prefix of the checkpoint that a path means: prefix, any of its files, a folder, or its `checkpoint`.

    Raises:
        FormatError: if it means none, or a folder holds several and does not tell which.
    """
    if path.is_dir():
        return _prefix_in(path)
    if path.name == STATE and path.is_file():
        return _prefix_by(path)
    shard = _DATA.fullmatch(path.name)
    named = path.with_name(shard[1]) if shard else path.with_suffix("")
    if shard or path.suffix in (".index", ".meta"):
        path = named
    if not _index_of(path).is_file():
        _refuse(path)
    return path


def _index_of(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".index")


def _refuse(path: Path) -> None:
    """Tell why a path is no checkpoint; of the first version it is one file, a table that has its data within."""
    if path.is_file() and _ends_as_table(path):
        with path.open("rb") as stream:
            first = stream.read(16)
        if re.match(rb"\0\0[\x80-\xff]*[\0-\x7f]\x0a", first):  # its header begins with a message, not a number
            hint = "load it in TensorFlow and save it with tf.compat.v1.train.Saver, which writes version 2"
            raise FormatError(f"{path}: must be a TensorFlow checkpoint of version 2, got one of version 1; {hint}")
    raise FormatError(f"{path}: must be the prefix of a TensorFlow checkpoint, got no {_index_of(path).name} beside it")


def _ends_as_table(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(max(path.stat().st_size - len(MAGIC), 0))
        return stream.read() == MAGIC


def _prefix_in(folder: Path) -> Path:
    if (folder / STATE).is_file():
        return _prefix_by(folder / STATE)
    found = _prefixes(folder)
    if len(found) != 1:
        seen = ", ".join(found[:8]) or "none"
        raise FormatError(f"{folder}: must hold one TensorFlow checkpoint, got {seen}; give the prefix of one")
    return folder / found[0]


def _prefixes(folder: Path) -> list[str]:
    return sorted(path.name.removesuffix(".index") for path in folder.glob("*.index") if _ends_as_table(path))


def _prefix_by(state: Path) -> Path:
    """Return the prefix that a `checkpoint` file names; its folder may have moved since, so that the name counts."""
    with state.open("rb") as stream:
        text = stream.read(_CHUNK)
    named = re.search(rb'^\s*model_checkpoint_path\s*:\s*("(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\')', text, re.M)
    if not named:
        raise FormatError(f"{state}: must hold model_checkpoint_path, as TensorFlow writes it, got a file without it")
    path = Path(_unescaped(named[1][1:-1]).decode("utf-8", "replace"))
    within = not path.is_absolute() and ".." not in path.parts
    for prefix in (state.parent / path, state.parent / path.name) if within else (state.parent / path.name,):
        if path.name and _index_of(prefix).is_file():
            return prefix
    seen = ", ".join(_prefixes(state.parent)[:8]) or "none"
    hint = f"checkpoints there: {seen}; give the prefix of one"
    raise FormatError(f"{state}: model_checkpoint_path must be a checkpoint in this folder, got {str(path)!r}; {hint}")


def _unescaped(text: bytes) -> bytes:
    """Undo the escapes of a quoted text: three octal digits for each byte beyond ASCII."""
    return re.sub(
        rb"\\([0-7]{1,3}|.)",
        lambda match: bytes([int(match[1], 8) & 0xFF]) if match[1].isdigit() else match[1],
        text,
    )


# ------------------------------------------------------------------------------------------------------- reading


class Reader(base.Reader):
    """All variables of a checkpoint, optimizer's and counters too; nothing is read until it is asked for.

    Args:
        path: the prefix, one of its files (`.index`, `.data-?????-of-?????`, `.meta`), the folder, or the file
            `checkpoint` in it.

    `extras` holds an `Other` for what is no array of numbers: strings, such as the graph of objects of TensorFlow 2.

    Raises:
        FormatError: for a damaged index, a missing or short shard; when a tensor is read, if its bytes do not match
            their checksum.
    """

    format = "tf1"

    def __init__(self, path: Path) -> None:
        try:
            self._open(prefix_of(Path(path)))
        except OSError as error:
            raise FormatError(f"{path}: must be readable, got {error.strerror or error}") from error

    def _open(self, prefix: Path) -> None:
        index = _index_of(prefix)
        self._index = read_index(index)
        used = sorted({stored.shard for stored in self._index.stored.values() if stored.size})
        self._data = {shard: _data_of(prefix, shard, self._index.shards) for shard in used}
        self.files = (index, *self._data.values())
        self._check_places(str(index))
        self._tensors = {name: stored for name, stored in self._index.names.items() if stored.kind in DTYPES}
        self.extras = self._read_others()

    def __getitem__(self, name: str) -> Entry:
        stored = self._tensors[name]
        return Entry(name, stored.shape, DTYPES[stored.kind])

    def read(self, name: str) -> Tensor:
        """Read one variable, its slices put together, and check it against its checksum."""
        stored = self._tensors[name]
        dtype = DTYPES[stored.kind]
        if not stored.parts:
            return self._read(stored, dtype, name)
        array = np.empty(stored.shape, dtype)
        reached, place = 0, [slice(None)] * array.ndim
        for part in (self._index.stored[key] for key in stored.parts):
            if place:
                place[stored.axis] = slice(reached, reached := reached + part.shape[stored.axis])
            array[tuple(place)] = self._read(part, dtype, name)
        return array

    def _check_places(self, where: str) -> None:
        """Check that what the index promises lies within the shards, each byte promised once."""
        sizes = {shard: _size_of(file) for shard, file in self._data.items()}
        spans = sorted((each.shard, each.offset, each.size) for each in self._index.stored.values() if each.size)
        for shard, offset, size in spans:
            if offset + size > sizes[shard]:
                short = f"bytes {offset} to {offset + size} must be there, got a file of {sizes[shard]}; is it cut off?"
                raise FormatError(f"{self._data[shard]}: {short}")
        for (one, start, size), (other, following, _) in pairwise(spans):
            if one == other and start + size > following:
                raise FormatError(f"{where}: tensors must lie beside each other, got two that share byte {following}")

    def _read(self, stored: Stored, dtype: np.dtype[Any], name: str) -> Tensor:
        """Read the bytes of one record, check them, and turn them to this machine's order."""
        if not stored.size:
            return np.empty(stored.shape, dtype)
        file = self._data[stored.shard]
        array = read_array(file, stored.offset, stored.shape, dtype)
        raw = array.reshape(-1).view("uint8")
        if masked(sum_of(raw)) != stored.crc:
            raise FormatError(f"{file}: {name!r} must match its checksum, got other bytes; is the file damaged?")
        width = dtype.itemsize // (2 if dtype.kind == "c" else 1)
        if self._index.big_endian != (sys.byteorder == "big") and width > 1:
            raw.view(f"u{width}").byteswap(inplace=True)
        return array

    def _read_others(self) -> dict[str, Other]:
        """Read what is no array, as long as it is little; strings are held against their checksums."""
        found, room = {}, _MOST_OTHERS
        for name, stored in self._index.names.items():
            if stored.kind in DTYPES:
                continue
            room -= stored.size
            data = self._bytes(stored) if room >= 0 else None
            if data is not None and OTHERS[stored.kind] == "string":
                self._check_strings(data, stored, name)
            found[name] = Other(OTHERS[stored.kind], stored.shape, data, stored.crc)
        return found

    def _bytes(self, stored: Stored) -> bytes:
        if not stored.size:
            return b""
        return read_array(self._data[stored.shard], stored.offset, (stored.size,), np.dtype("uint8")).tobytes()

    def _check_strings(self, data: bytes, stored: Stored, name: str) -> None:
        """Check strings: their lengths, a checksum of these, and the characters; one checksum goes over all."""
        where = f"{self._data.get(stored.shard, self.files[0])}: {name!r}"
        crc, at, total = 0, 0, 0
        for _ in range(prod(stored.shape)):
            length, at = read_varint(data, at, where)
            crc = google_crc32c.extend(crc, length.to_bytes(4 if length < 1 << 32 else 8, "little"))
            total += length
        if at + 4 + total != len(data) or data[at : at + 4] != masked(crc).to_bytes(4, "little"):
            raise FormatError(f"{where} must hold strings of the lengths that it says, got {len(data)} bytes")
        if masked(google_crc32c.extend(crc, data[at:])) != stored.crc:
            raise FormatError(f"{where} must match its checksum, got damaged bytes")


def _data_of(prefix: Path, shard: int, shards: int) -> Path:
    return prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}")


def _size_of(file: Path) -> int:
    if not file.is_file():
        raise FormatError(f"{file}: must be there, as its index says, got no such file")
    return file.stat().st_size


# ------------------------------------------------------------------------------------------------------- writing


class Writer(base.Writer):
    """The plan of a checkpoint as TensorFlow itself writes it, byte by byte: variables by the order of their names.

    Args:
        extras: each an `Other`; they lie among the variables.
        name: the prefix.

    Raises:
        FormatError: for a name or a dtype that such a checkpoint cannot hold, and for extras of other formats.
    """

    sum = staticmethod(sum_of)

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        max_bytes: int = 0,
        extras: Mapping[str, Any] | None = None,
        shared: Mapping[str, str] | None = None,
        name: str = "",
    ) -> None:
        self._prefix = _checked_prefix(name or PREFIX)
        refuse_shared(self._prefix, shared)
        self._others = dict(extras or {})
        records = [(name, _planned_other(name, other)) for name, other in self._others.items()]
        records += [(entry.name, _planned(entry)) for entry in entries]
        self._tensors = _dealt(sorted(records, key=lambda record: _key(record[0])), max_bytes)
        if len(self._tensors) < len(records):
            raise FormatError(
                f"{self._prefix}: names must be different, got {len(records) - len(self._tensors)} that stand twice"
            )
        self._shards = 1 + max((stored.shard for stored in self._tensors.values()), default=0)
        self.files = tuple(f"{self._prefix}.data-{shard:05d}-of-{self._shards:05d}" for shard in range(self._shards))
        self.places = {entry.name: self._place(entry.name) for entry in entries}

    def _place(self, name: str) -> Place:
        stored = self._tensors[name]
        return Place(self.files[stored.shard], stored.offset)

    def begin(self, folder: Path) -> None:
        """Make the data files; what is no array stands in them already."""
        pieces: dict[str, list[tuple[int, bytes]]] = {file: [] for file in self.files}
        sizes = dict.fromkeys(self.files, 0)
        for name, stored in self._tensors.items():
            file = self.files[stored.shard]
            sizes[file] = stored.offset + stored.size
            if name in self._others:
                pieces[file].append((stored.offset, self._others[name].data))
        for file, size in sizes.items():
            lay(folder / file, size, pieces[file])

    def end(self, folder: Path, sums: Mapping[str, int]) -> None:
        """Write the index, and the file that tells the prefix."""
        crcs = {name: other.crc for name, other in self._others.items()} | {n: masked(sums[n]) for n in self.places}
        records = [(name, replace(stored, crc=crcs[name])) for name, stored in self._tensors.items()]
        _index_of(folder / self._prefix).write_bytes(write_index(self._shards, records))
        state = f'model_checkpoint_path: "{self._prefix}"\nall_model_checkpoint_paths: "{self._prefix}"\n'
        (folder / STATE).write_text(state, encoding="utf-8")


def _checked_prefix(name: str) -> str:
    if not re.fullmatch(r"[\w-][\w.-]*", name, re.ASCII):
        raise FormatError(f"{name!r}: a checkpoint's prefix must be letters, digits, '.', '_' and '-', got others")
    return name


def _key(name: str) -> bytes:
    """Return what an index has for a name, by which it is in order."""
    try:
        key = name.encode()
    except UnicodeEncodeError as error:
        raise FormatError(f"{name!r}: a name in a TensorFlow checkpoint must be text, got {error.reason}") from error
    if not key or key.startswith(b"\0"):
        raise FormatError(f"{name!r}: a name in a TensorFlow checkpoint must begin with a character, got none")
    return key


def _planned(entry: Entry) -> Stored:
    if entry.dtype not in NUMBERS:
        known = ", ".join(str(dtype) for dtype in NUMBERS)
        raise FormatError(f"{entry.name}: must have a dtype that TensorFlow has, {known}, got {entry.dtype}")
    return Stored(NUMBERS[entry.dtype], entry.shape, 0, 0, entry.nbytes, 0)


def _planned_other(name: str, other: Any) -> Stored:
    if not isinstance(other, Other) or other.data is None:
        what = "one too large to be kept" if isinstance(other, Other) else type(other).__name__
        raise FormatError(f"{name}: an extra of a TensorFlow checkpoint must be one of its own kind, whole, got {what}")
    return Stored(_OTHER_NUMBERS[other.kind], other.shape, 0, 0, len(other.data), other.crc)


def _dealt(records: Sequence[tuple[str, Stored]], max_bytes: int) -> dict[str, Stored]:
    """Give each record its place."""
    dealt = shards([Entry(name, (record.size,), np.dtype("uint8")) for name, record in records], max_bytes)
    if len(dealt) > MOST_SHARDS:
        raise FormatError(
            f"max_bytes: must leave at most {MOST_SHARDS} files, got {max_bytes}, which makes {len(dealt)}"
        )
    found, placed = dict(records), {}
    for number, shard in enumerate(dealt):
        offset = 0
        for entry in shard:
            placed[entry.name] = replace(found[entry.name], shard=number, offset=offset)
            offset += entry.nbytes
    return placed
