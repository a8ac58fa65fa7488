"""The index of a TensorFlow checkpoint: for every variable its type, shape, checksum, and where its bytes lie.

A variable that was cut into slices (a partitioned one) has a record that lists them, and one record a slice.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from conversion.formats.sstable import read_table, write_table
from xlcore.errors import FormatError
from xlcore.protobuf import bytes_field, fixed_field, number_field, read_message

# By the number that TensorFlow gives each type: what numpy can hold, and what it cannot.
DTYPES: dict[int, np.dtype[Any]] = {
    number: np.dtype(kind)
    for number, kind in {
        1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 8: "complex64", 9: "int64",
        10: "bool", 14: ml_dtypes.bfloat16, 17: "uint16", 18: "complex128", 19: "float16", 22: "uint32", 23: "uint64",
        24: ml_dtypes.float8_e5m2, 25: ml_dtypes.float8_e4m3fn,
    }.items()
}  # fmt: skip
OTHERS = {
    7: "string", 11: "qint8", 12: "quint8", 13: "qint32", 15: "qint16", 16: "quint16", 20: "resource", 21: "variant",
    26: "float8_e4m3fnuz", 27: "float8_e4m3b11fnuz", 28: "float8_e5m2fnuz", 29: "int4", 30: "uint4", 31: "int2",
    32: "uint2",
}  # fmt: skip

HEADER = b""
MOST_SHARDS = 99_999
_MOST_BYTES = 1 << 24  # the index of ten thousand variables has one million
_MOST_UNPACKED = 1 << 26
_MOST_AXES = 64  # numpy's own bound
_SLICE = b"\0"  # what the key of a slice begins with, and no name does
_WHOLE = -1  # the length of an axis that is not cut

Extents = tuple[tuple[int, int], ...]  # start and length of a slice on each axis


@dataclass(frozen=True)
class Stored:
    """One record of the index.

    Attributes:
        kind: TensorFlow's number of the type.
        shard, offset, size: where the bytes lie.
        crc: the masked checksum of the bytes.
        parts: the keys of a cut variable's slices, in order.
        axis: the one that is cut.
    """

    kind: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    parts: tuple[bytes, ...] = ()
    axis: int = 0


@dataclass(frozen=True)
class Index:
    """What the index of a checkpoint says.

    Attributes:
        shards: the number of data files.
        big_endian: whether the bytes of each number lie the other way round.
        stored: all records by their keys, the names of variables and the keys of slices.
    """

    shards: int
    big_endian: bool
    stored: Mapping[bytes, Stored]

    @property
    def names(self) -> dict[str, Stored]:
        """The records of whole variables, by name."""
        return {key.decode(): stored for key, stored in self.stored.items() if not key.startswith(_SLICE)}


def read_index(file: Path) -> Index:
    """Read an index, with everything in it checked that can be checked without the data.

    Raises:
        FormatError: for anything but a whole, undamaged index; for variables cut along several axes.
    """
    where = str(file)
    size = file.stat().st_size
    if size > _MOST_BYTES:
        raise FormatError(f"{file}: an index must have at most {_MOST_BYTES} bytes, got {size}; is it one?")
    records = dict(read_table(file.read_bytes(), where, _MOST_UNPACKED))
    if HEADER not in records:
        raise FormatError(f"{file}: an index must begin with its header, got none")
    shards, big_endian = _read_header(records.pop(HEADER), where)
    room = len(records)
    stored, cuts = {}, {}
    for key, value in records.items():
        if not key.startswith(_SLICE):
            _check_text(key, where)
        stored[key], cut = _read_record(value, f"{where}: {_shown(key)}", shards, room)
        room -= len(cut)  # every slice has a record of its own
        if cut:
            cuts[key] = cut
    for key, cut in cuts.items():
        stored[key] = _joined(key, stored, cut, f"{where}: {_shown(key)}")
    _refuse_strays(stored, where)
    return Index(shards, big_endian, stored)


def _shown(key: bytes) -> str:
    return repr(key[:200].decode("utf-8", "backslashreplace"))


def _read_header(data: bytes, where: str) -> tuple[int, bool]:
    fields = read_message(data, where, {1: int, 2: int, 3: bytes})
    shards, order = (fields[1] or [0])[-1], (fields[2] or [0])[-1]
    if not 1 <= shards <= MOST_SHARDS or order > 1:
        wanted = f"must tell 1 to {MOST_SHARDS} shards and an order of bytes, 0 or 1"
        raise FormatError(f"{where}: its header {wanted}, got {shards} and {order}")
    version = read_message((fields[3] or [b""])[-1], where, {2: int})
    if (version[2] or [0])[-1] > 1:
        raise FormatError(
            f"{where}: its header must be for readers of version 1, got one for version {version[2][-1]} and later"
        )
    return shards, order == 1


def _read_record(data: bytes, where: str, shards: int, room: int) -> tuple[Stored, list[bytes]]:
    """Return what a record says, and the slices that it lists, as they stand."""
    fields = read_message(data, where, {1: int, 2: bytes, 3: int, 4: int, 5: int, 6: int, 7: bytes}, max(room, 1))
    kind, shard, offset, size, crc = ((fields[number] or [0])[-1] for number in (1, 3, 4, 5, 6))
    if kind not in DTYPES and kind not in OTHERS:
        raise FormatError(f"{where}: must have a type that TensorFlow has, got number {kind}")
    if shard >= shards:
        raise FormatError(f"{where}: must lie in one of {shards} shards, got number {shard}")
    stored = Stored(kind, _read_shape((fields[2] or [b""])[-1], where), shard, offset, size, crc)
    if kind not in DTYPES and not fields[7]:
        return stored, []
    wanted = 0 if fields[7] else prod(stored.shape) * DTYPES[kind].itemsize  # the bytes of a cut one are its slices'
    if size != wanted:
        raise FormatError(f"{where}: a record of shape {list(stored.shape)} must have {wanted} bytes, got {size}")
    return stored, fields[7]


def _read_shape(data: bytes, where: str) -> tuple[int, ...]:
    fields = read_message(data, where, {2: bytes, 3: int}, _MOST_AXES)
    shape = tuple((read_message(axis, where, {1: int})[1] or [0])[-1] for axis in fields[2])
    if any(fields[3]) or prod(size for size in shape if size) >= 1 << 59:
        raise FormatError(f"{where}: must have a shape that memory can hold, got {list(shape) or 'none'}")
    return shape


def _joined(key: bytes, stored: Mapping[bytes, Stored], cut: Sequence[bytes], where: str) -> Stored:
    """Return the record of a cut variable with its slices in order, proven to cover it and to be what it says."""
    whole = stored[key]
    if whole.kind not in DTYPES:
        raise FormatError(f"{where}: a variable cut into slices must hold numbers, got {OTHERS[whole.kind]}")
    slices = sorted((_spans(extents, whole.shape), extents) for extents in _read_slices(cut, whole.shape, where))
    axes = {axis for spans, _ in slices for axis, span in enumerate(spans) if span != (0, whole.shape[axis])}
    if len(axes) > 1 or len(slices) > 1 > len(axes):
        some = [extents for _, extents in slices[:4]]
        raise FormatError(f"{where}: must be cut along one axis, got slices {some}; save it whole in TensorFlow")
    axis, reached, parts = min(axes, default=0), 0, []
    for spans, extents in slices:
        part, shape = stored.get(slice_key(key, extents)), tuple(size for _, size in spans)
        if part is None or part.parts or (part.kind, part.shape) != (whole.kind, shape):
            got = f"{part.kind} of shape {part.shape}" if part else "none"
            raise FormatError(f"{where}: its slice {extents} must be there as {whole.kind} of shape {shape}, got {got}")
        if axes and spans[axis][0] != reached:
            raise FormatError(f"{where}: slices must follow one another, got {extents} where {reached} are covered")
        reached += shape[axis] if axes else 0
        parts.append(slice_key(key, extents))
    if axes and reached != whole.shape[axis]:
        raise FormatError(f"{where}: slices must cover {whole.shape[axis]} of axis {axis}, got {reached}")
    return replace(whole, parts=tuple(parts), axis=axis)


def _spans(extents: Extents, shape: tuple[int, ...]) -> Extents:
    """Return start and size on each axis, in numbers where an axis is not cut, too."""
    pairs = zip(extents, shape, strict=True)
    return tuple((start, whole if size == _WHOLE else size) for (start, size), whole in pairs)


def _read_slices(cut: Sequence[bytes], shape: tuple[int, ...], where: str) -> Iterator[Extents]:
    """Yield start and length of each slice on each axis."""
    for data in cut:
        axes = read_message(data, where, {1: bytes}, _MOST_AXES)[1]
        if len(axes) != len(shape):
            raise FormatError(f"{where}: a slice must have {len(shape)} axes, got {len(axes)}")
        fields = [read_message(axis, where, {1: int, 2: int}) for axis in axes]
        yield tuple(((each[1] or [0])[-1], (each[2] or [_WHOLE])[-1]) for each in fields)


def _refuse_strays(stored: Mapping[bytes, Stored], where: str) -> None:
    """Refuse slices of nothing."""
    used = {part for record in stored.values() for part in record.parts}
    for key in stored:
        if key.startswith(_SLICE) and key not in used:
            raise FormatError(f"{where}: {_shown(key)} must be a slice of a variable, got one of none")


def _check_text(key: bytes, where: str) -> None:
    try:
        key.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: a name must be text in UTF-8, got {_shown(key)}") from error


# ----------------------------------------------------------------------------------------------- the keys of slices


def slice_key(name: bytes, extents: Extents) -> bytes:
    """Return the key of a slice: name and numbers written so that keys sort as what they stand for."""
    rank = bytes([1, len(extents)]) if extents else b"\0"
    numbers = b"".join(_sortable(number) for extent in extents for number in extent)
    return _SLICE + name.replace(b"\0", b"\0\xff") + b"\0\1" + rank + numbers


def _sortable(number: int) -> bytes:
    """Write a signed number in as few bytes as hold it, with as many leading bits turned over as there are bytes."""
    size = 1 + (number if number >= 0 else ~number).bit_length() // 7
    turned = (1 << size) - 1 << 7 * size
    return (number & (1 << 8 * size) - 1 ^ turned).to_bytes(size, "big")


# ------------------------------------------------------------------------------------------------------- writing


def write_index(shards: int, stored: Iterable[tuple[str, Stored]]) -> bytes:
    """Lay out an index, given whole variables in the order of their names' bytes."""
    header = number_field(1, shards) + bytes_field(3, number_field(1, 1))
    return write_table([(HEADER, header), *((name.encode(), _write_record(record)) for name, record in stored)])


def _write_record(stored: Stored) -> bytes:
    shape = b"".join(bytes_field(2, number_field(1, size)) for size in stored.shape)
    numbers = enumerate((stored.shard, stored.offset, stored.size), 3)
    places = b"".join(number_field(number, value) for number, value in numbers)
    return number_field(1, stored.kind) + bytes_field(2, shape) + places + fixed_field(6, stored.crc)
