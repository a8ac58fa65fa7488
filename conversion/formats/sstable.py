"""Sorted tables of keys and values as LevelDB lays them out, and TensorFlow its checkpoints' indexes.

A table is blocks of records, one block that says where they lie, and a footer that says where that one lies. A record
shares the beginning of its key with the one before. After each block stand one byte, how it is compressed, and a
checksum.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import google_crc32c

from xlcore.errors import FormatError
from xlcore.protobuf import read_varint, varint

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER = 48
_PIECE = 1 << 20
_PLAIN, _SNAPPY = 0, 1
_BLOCK_SIZE = 1 << 18  # TensorFlow begins a new block beyond it
_RESTART = 16  # TensorFlow writes each sixteenth key in full
_RECORD = 256  # what a record costs in memory beside its bytes, at least


def sum_of(data: Any, before: int = 0) -> int:
    """Return the CRC-32C of bytes that follow others, a piece at a time, since the library wants copies."""
    view = memoryview(data)
    for start in range(0, len(view), _PIECE):
        before = google_crc32c.extend(before, bytes(view[start : start + _PIECE]))
    return before


def masked(crc: int) -> int:
    """Mask a CRC-32C, as it is stored: a checksum of data that holds checksums would be weak otherwise."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_table(data: bytes, where: str, most: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a table, in order.

    Args:
        most: how many bytes the keys and values may take in memory; short ones that share much can be many.

    Raises:
        FormatError: for anything that is not a whole, undamaged table.
    """
    if len(data) < _FOOTER or not data.endswith(MAGIC):
        raise FormatError(f"{where}: must end as a table does, got {len(data)} bytes that do not; is the file cut off?")
    place = read_varint(data[-_FOOTER:], 0, where)[1]
    place = read_varint(data[-_FOOTER:], place, where)[1]  # the first handle is of a block that holds nothing
    index = _read_block(data, *_read_handle(data[-_FOOTER:], place, where), where, most)
    before, end = None, 0
    for _, handle in _records(index, where):
        offset, size = _read_handle(handle, 0, where)
        if offset < end:
            raise FormatError(f"{where}: blocks must lie one after the other, got one at {offset}, within another")
        end = offset + size + 5
        for key, value in _records(_read_block(data, offset, size, where, most), where):
            if before is not None and key <= before:
                raise FormatError(f"{where}: keys must be in order, got {key[:99]!r} after {before[:99]!r}")
            most -= len(key) + len(value) + _RECORD
            if most < 0:
                raise FormatError(f"{where}: the table must unpack to fewer bytes, got more than any genuine one")
            before = key
            yield key, value


def _read_handle(data: bytes, start: int, where: str) -> tuple[int, int]:
    offset, start = read_varint(data, start, where)
    return offset, read_varint(data, start, where)[0]


def _read_block(data: bytes, offset: int, size: int, where: str, most: int) -> bytes:
    end = offset + size
    if end + 5 > len(data) - _FOOTER:
        raise FormatError(f"{where}: a block must lie within the file's {len(data)} bytes, got {offset} to {end + 5}")
    if masked(sum_of(data[offset : end + 1])) != int.from_bytes(data[end + 1 : end + 5], "little"):
        raise FormatError(f"{where}: the block at {offset} must match its checksum, got other bytes; is it damaged?")
    if data[end] == _SNAPPY:
        return unpack_snappy(data[offset:end], where, most)
    if data[end] != _PLAIN:
        raise FormatError(f"{where}: a block must be plain or compressed by snappy, got kind {data[end]}")
    return data[offset:end]


def _records(block: bytes, where: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block; read from its start it needs none of the points to restart from."""
    count = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (count + 1)
    if end < 0:
        raise FormatError(f"{where}: a block must hold its {count} restart points, got {len(block)} bytes")
    key, position = b"", 0
    while position < end:
        shared, position = read_varint(block, position, where)
        fresh, position = read_varint(block, position, where)
        size, position = read_varint(block, position, where)
        if shared > len(key) or position + fresh + size > end:
            raise FormatError(f"{where}: a record must lie within its block, got {shared}, {fresh} and {size} bytes")
        key = key[:shared] + block[position : position + fresh]
        position += fresh + size
        yield key, block[position - size : position]


def unpack_snappy(data: bytes, where: str, most: int) -> bytes:
    """Undo snappy: literal bytes, and copies of what stands before; no more than `most` bytes come out."""
    size, position = read_varint(data, 0, where)
    out = bytearray()
    while position < len(data) and len(out) <= size <= most:
        kind, upper = data[position] & 3, data[position] >> 2
        width = (max(upper - 59, 0), 1, 2, 4)[kind]  # of the number that follows
        number = int.from_bytes(data[position + 1 : position + 1 + width], "little")
        position += 1 + width
        if kind == 0:
            length = 1 + (number if width else upper)
            out += data[position : position + length]
            position += length
            continue
        length, back = upper + 1, number
        if kind == 1:
            length, back = upper % 8 + 4, (upper >> 3) << 8 | number
        if not 0 < back <= len(out):
            raise FormatError(
                f"{where}: snappy must copy from what it has unpacked, got {back} of {len(out)} bytes back"
            )
        start = len(out) - back
        piece = out[start : start + length]
        out += (piece * (length // len(piece) + 1))[:length]  # a copy may run on into what it writes
    if position != len(data) or len(out) != size:
        raise FormatError(f"{where}: snappy must unpack to the {size} bytes that it says, got {len(out)}")
    return bytes(out)


# ------------------------------------------------------------------------------------------------------- writing


def write_table(records: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Lay out keys, in order, with their values, as TensorFlow does, byte by byte."""
    out, index = bytearray(), _Block(restart=1)
    block, key, handle = _Block(_RESTART), b"", b""
    for following, value in records:
        if handle:
            index.add(_between(key, following), handle)
            handle = b""
        key = following
        block.add(key, value)
        if block.size >= _BLOCK_SIZE:
            block, handle = _Block(_RESTART), _lay(out, block)
    if block.size > 8:
        handle = _lay(out, block)
    if handle:
        index.add(_after(key), handle)
    footer = _lay(out, _Block(_RESTART)) + _lay(out, index)
    return bytes(out) + footer.ljust(_FOOTER - len(MAGIC), b"\0") + MAGIC


class _Block:
    """Records under way to a block."""

    def __init__(self, restart: int) -> None:
        self._restart, self._count, self._key = restart, 0, b""
        self._data, self._restarts = bytearray(), [0]

    @property
    def size(self) -> int:
        """The bytes that the block takes so far."""
        return len(self._data) + 4 * len(self._restarts) + 4

    def add(self, key: bytes, value: bytes) -> None:
        shared = 0
        if self._count and self._count % self._restart == 0:
            self._restarts.append(len(self._data))
        elif self._count:
            shared = _shared(self._key, key)
        self._data += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        self._key, self._count = key, self._count + 1

    def bytes(self) -> bytes:
        numbers = [*self._restarts, len(self._restarts)]
        return bytes(self._data) + b"".join(number.to_bytes(4, "little") for number in numbers)


def _lay(out: bytearray, block: _Block) -> bytes:
    """Append a block and what follows it; return where it lies, as the index says it."""
    data = block.bytes()
    handle = varint(len(out)) + varint(len(data))
    data += bytes([_PLAIN])
    out += data + masked(sum_of(data)).to_bytes(4, "little")
    return handle


def _shared(one: bytes, other: bytes) -> int:
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _between(one: bytes, other: bytes) -> bytes:
    """Return a short key that is not before `one` and before `other`."""
    place = _shared(one, other)
    if place < min(len(one), len(other)) and one[place] + 1 < other[place]:
        return one[:place] + bytes([one[place] + 1])
    return one


def _after(key: bytes) -> bytes:
    """Return a short key that is not before `key`."""
    place = next((place for place, byte in enumerate(key) if byte != 0xFF), None)
    return key if place is None else key[:place] + bytes([key[place] + 1])
