"""Zip files whose members are stored as they are: where each lies, known before its bytes are; and what stands around.

Python's `zipfile` writes a member's bytes and its headers in one go. Here the headers are planned first, so that the
bytes can be filled in later and in any order.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlcore.errors import FormatError

_DATE = (1 << 5) | 1  # the first day that a zip can name, 1980-01-01: the same bytes on every day
_MOST = 0xFFFFFFFF
_POLYNOMIAL = 0xEDB88320
_READ = 1 << 27  # bytes; a zip's directory and the texts in it are much smaller

Pieces = Iterator[tuple[int, bytes]]


@dataclass(frozen=True)
class Member:
    """One file in a zip: its content, or only its size where the content comes later.

    `align` makes its bytes begin at a multiple.
    """

    name: str
    size: int
    content: bytes | None = None
    align: int = 1


class Zip:
    """The plan of a zip.

    Attributes:
        starts: for every member, the byte of the zip at which its content begins.
        size: the bytes of the whole.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._heads: dict[str, int] = {}
        self._gaps: dict[str, int] = {}
        self.starts: dict[str, int] = {}
        end = 0
        for member in members:
            bare = end + 30 + len(member.name.encode()) + (20 if member.size >= _MOST else 0)
            gap = -(bare + 4) % member.align + 4 if member.align > 1 else 0  # an extra field has 4 bytes at least
            self._heads[member.name], self._gaps[member.name] = end, gap
            self.starts[member.name] = bare + gap
            end = bare + gap + member.size
        self._end = end
        self.size = end + len(self._directory({}))

    def pieces(self, sums: Mapping[str, int]) -> Pieces:
        """Yield everything but the content that comes later; `sums` are the CRC-32 of that, as far as known."""
        for member in self._members:
            yield self._heads[member.name], self._head(member, sums)
            if member.content is not None:
                yield self.starts[member.name], member.content
        yield self._end, self._directory(sums)

    def _head(self, member: Member, sums: Mapping[str, int]) -> bytes:
        name, gap = member.name.encode(), self._gaps[member.name]
        wide = struct.pack("<HHQQ", 1, 16, member.size, member.size) if member.size >= _MOST else b""
        filler = struct.pack("<2sH", b"FB", gap - 4) + b"Z" * (gap - 4) if gap else b""
        return (
            b"PK\3\4" + _facts(member, sums) + struct.pack("<HH", len(name), len(wide + filler)) + name + wide + filler
        )

    def _directory(self, sums: Mapping[str, int]) -> bytes:
        rows = b"".join(self._row(member, sums) for member in self._members)
        count, size, start = len(self._members), len(rows), self._end
        wide = b""
        if count > 0xFFFE or start >= _MOST:
            wide = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, size, start)
            wide += b"PK\6\7" + struct.pack("<IQI", 0, start + size, 1)
        few, near = min(count, 0xFFFF), min(start, _MOST)
        return rows + wide + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, few, few, size, near, 0)

    def _row(self, member: Member, sums: Mapping[str, int]) -> bytes:
        name, head = member.name.encode(), self._heads[member.name]
        numbers = [member.size, member.size] if member.size >= _MOST else []
        numbers += [head] if head >= _MOST else []
        extra = struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""
        rest = struct.pack("<HHHHHII", len(name), len(extra), 0, 0, 0, 0, min(head, _MOST))
        return b"PK\1\2" + struct.pack("<H", 45) + _facts(member, sums) + rest + name + extra


def _facts(member: Member, sums: Mapping[str, int]) -> bytes:
    """Return what both headers of a member say of it."""
    crc = zlib.crc32(member.content) if member.content is not None else sums.get(member.name, 0)
    size = min(member.size, _MOST)
    return struct.pack("<HHHHHIII", 45 if member.size >= _MOST else 20, 0, 0, 0, _DATE, crc, size, size)


@contextmanager
def opened(file: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip to be read; whatever is wrong with it comes out as FormatError, while it is open too."""
    try:
        with _Careful(file) as stream, zipfile.ZipFile(stream) as archive:
            yield archive
    except FormatError:
        raise
    except Exception as error:  # what a damaged zip makes `zipfile` and `zlib` raise is of many kinds
        raise FormatError(f"{file}: must be a whole zip, got one that fails: {error}") from error


class _Careful(io.FileIO):
    """A file of which no more is read at a time than an honest zip needs: its claims are not believed."""

    def read(self, size: int | None = -1) -> bytes:
        """Read bytes, all that are left by default."""
        here = self.tell()
        left = self.seek(0, io.SEEK_END) - here
        self.seek(here)
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > _READ:
            raise zipfile.BadZipFile(f"a claim of {wanted} bytes for its directory")
        return super().read(wanted)


def crc32(data: Any, before: int = 0) -> int:
    """Return the CRC-32 of bytes that follow others whose CRC-32 is `before`."""
    return zlib.crc32(data, before)


def joined(first: int, second: int, length: int) -> int:
    """Return the CRC-32 of two runs of bytes, one after the other, from that of each and the length of the second.

    A CRC is a polynomial's remainder: bytes that follow multiply it by x for each of their bits.
    """
    return _times(_power(8 * length), first) ^ second


def _power(bits: int) -> int:
    """Return x to the power of `bits`, by squaring; the highest coefficient is the lowest bit."""
    found, square = 1 << 31, 1 << 30
    while bits:
        found = _times(square, found) if bits & 1 else found
        square = _times(square, square)
        bits >>= 1
    return found


def _times(one: int, other: int) -> int:
    found = 0
    for bit in range(31, -1, -1):
        found ^= other if one >> bit & 1 else 0
        other = other >> 1 ^ (_POLYNOMIAL if other & 1 else 0)
    return found
