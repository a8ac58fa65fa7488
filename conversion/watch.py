"""Whether files stay as they are while they are read."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from xlcore.errors import FormatError

_ENDS = 1 << 16

Fact = tuple[str, int, int, str]


class Watch:
    """Files as they are now: sizes, times, and the hash of how each begins and ends.

    Attributes:
        facts: of each file its name, size, time of change in nanoseconds, and hash of its ends.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = list(files)
        self.facts = [_fact(file) for file in self._files]

    def require_unchanged(self) -> None:
        """Look again.

        Raises:
            FormatError: if a file is gone, or another than before.
        """
        for file, before in zip(self._files, self.facts, strict=True):
            if _fact(file) != before:
                raise FormatError(f"{file}: must stay as it is while it is read, got a change; nothing was written")


def _fact(file: Path) -> Fact:
    try:
        with file.open("rb") as stream:
            seen = os.fstat(stream.fileno())
            digest = hashlib.sha256(stream.read(_ENDS))
            stream.seek(max(0, seen.st_size - _ENDS))
            digest.update(stream.read(_ENDS))
    except OSError as error:
        raise FormatError(
            f"{file}: must be there while it is read, got {error.strerror}; nothing was written"
        ) from error
    return file.name, seen.st_size, seen.st_mtime_ns, digest.hexdigest()
