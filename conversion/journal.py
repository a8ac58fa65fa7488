"""A journal on disk: what is done, line by line, so that whoever was killed can go on.

Each line carries its own checksum. A line that was being written when the power went is no line; it and what follows
is cut off.
"""

import json
import os
import zlib
from collections.abc import Iterable
from typing import Any

Record = dict[str, Any]


class Journal:
    """An open journal; lines are added to its end, and are on the disk when `add` returns.

    Args:
        handle: the file, open to read and write.

    Attributes:
        records: every whole line, first to last.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle
        content = os.pread(handle, os.fstat(handle).st_size, 0)
        self.records, self._end = _read(content)
        os.ftruncate(handle, self._end)

    def add(self, records: Iterable[Record]) -> None:
        """Add lines, and wait until the disk has them."""
        added = list(records)
        content = b"".join(map(_line, added))
        written = 0
        while written < len(content):
            written += os.pwrite(self._handle, content[written:], self._end + written)
        os.fsync(self._handle)
        self._end += len(content)
        self.records += added

    def clear(self) -> None:
        """Begin anew."""
        os.ftruncate(self._handle, 0)
        os.fsync(self._handle)
        self.records, self._end = [], 0


def _line(record: Record) -> bytes:
    text = json.dumps(record, sort_keys=True).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _read(content: bytes) -> tuple[list[Record], int]:
    """Return the whole lines from the start on, and where they end."""
    records: list[Record] = []
    end = 0
    for line in content.splitlines(keepends=True):
        text = line[9:-1]
        if not line.endswith(b"\n") or line[:9] != b"%08x " % zlib.crc32(text):
            break
        records.append(json.loads(text))
        end += len(line)
    return records, end
