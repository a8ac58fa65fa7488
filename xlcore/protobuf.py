"""The wire format of protocol buffers: a message's fields, read within bounds, and written."""

from collections.abc import Mapping
from typing import Any

from xlcore.errors import FormatError

_WIDTHS = {1: 8, 5: 4}  # of the fixed numbers, by wire type
_VARINT, _BYTES = 0, 2


def read_varint(data: bytes, start: int, where: str) -> tuple[int, int]:
    """Read a number of up to 64 bits, seven a byte; return it and where it ends."""
    value = 0
    for place, byte in enumerate(data[start : start + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80 and value < 1 << 64:
            return value, start + place + 1
    raise FormatError(f"{where}: a number of at most 64 bits must stand at byte {start}, got one that does not end")


def varint(value: int) -> bytes:
    """Write a number of up to 64 bits, seven a byte."""
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def read_message(data: bytes, where: str, kinds: Mapping[int, type], most: int = 1000) -> dict[int, list[Any]]:
    """Read the fields of a message.

    Args:
        kinds: for each number of a field that is known, `int` or `bytes` (a message within, or a text).
        most: how often a field may come.

    Returns:
        The values of each known field, in order; a field that does not come has an empty list. Others are passed over,
        as the format has it.
    """
    found: dict[int, list[Any]] = {number: [] for number in kinds}
    position = 0
    while position < len(data):
        tag, position = read_varint(data, position, where)
        number, value, position = tag >> 3, *_read_value(data, position, tag & 7, where)
        if number not in kinds:
            continue
        if not isinstance(value, kinds[number]):
            raise FormatError(f"{where}: field {number} must hold {kinds[number].__name__}, got wire type {tag & 7}")
        if len(found[number]) == most:
            raise FormatError(f"{where}: field {number} must come at most {most} times, got more")
        found[number].append(value)
    return found


def _read_value(data: bytes, start: int, wire: int, where: str) -> tuple[int | bytes, int]:
    if wire == _VARINT:
        return read_varint(data, start, where)
    if wire in _WIDTHS:
        size = _WIDTHS[wire]
    elif wire == _BYTES:
        size, start = read_varint(data, start, where)
    else:
        raise FormatError(f"{where}: a field must have wire type 0, 1, 2 or 5, got {wire}")
    end = start + size
    if end > len(data):
        raise FormatError(
            f"{where}: a field of {size} bytes must lie within its message, got {len(data) - start} bytes"
        )
    value = data[start:end]
    return (value if wire == _BYTES else int.from_bytes(value, "little")), end


def number_field(number: int, value: int) -> bytes:
    """Write a field that holds a number; zero is what a field without a value means."""
    return varint(number << 3 | _VARINT) + varint(value) if value else b""


def fixed_field(number: int, value: int) -> bytes:
    """Write a field that holds a number of 32 bits at full width."""
    return varint(number << 3 | 5) + value.to_bytes(4, "little") if value else b""


def bytes_field(number: int, value: bytes) -> bytes:
    """Write a field that holds a message, or a text."""
    return varint(number << 3 | _BYTES) + varint(len(value)) + value
