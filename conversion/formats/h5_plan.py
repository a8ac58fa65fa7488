"""HDF5 files planned before they are written: the library lays one out around tensors that are not there yet.

It writes into a sketch, which keeps what is written and nothing else: a file of 40 GB is some pages of its structure.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from conversion.formats.base import Entry
from conversion.formats.zips import crc32, joined

_PAGE = 1 << 12
_ZEROS = bytes(1 << 20)


class Sketch(io.RawIOBase):
    """A file in memory that keeps only the pages that are written; the rest of it is zeros."""

    def __init__(self) -> None:
        self.size = 0
        self._pages: dict[int, bytearray] = {}
        self._at = 0

    def seekable(self) -> bool:
        """Tell that any place can be gone to."""
        return True

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def writable(self) -> bool:
        """Tell that it can be written."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def truncate(self, size: int | None = None) -> int:
        """Set the size."""
        self.size = self._at if size is None else size
        return self.size

    def readinto(self, room: Any) -> int:
        """Read into given memory."""
        view = memoryview(room).cast("B")
        count = max(0, min(len(view), self.size - self._at))
        view[:count] = self.content(self._at, self._at + count)
        self._at += count
        return count

    def write(self, data: Any) -> int:
        """Write bytes."""
        view = memoryview(data).cast("B")
        for number, start, stop, first in _pages(self._at, self._at + len(view)):
            page = self._pages.setdefault(number, bytearray(_PAGE))
            page[start:stop] = view[first : first + stop - start]
        self._at += len(view)
        self.size = max(self.size, self._at)
        return len(view)

    def content(self, start: int, stop: int) -> bytes:
        """Return the bytes from one place to another."""
        found = bytearray(stop - start)
        for number, begin, end, first in _pages(start, stop):
            if page := self._pages.get(number):
                found[first : first + end - begin] = page[begin:end]
        return bytes(found)

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Yield every page that was written, with its place."""
        for number, page in sorted(self._pages.items()):
            yield number * _PAGE, bytes(page[: self.size - number * _PAGE])


def _pages(start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the pages of a stretch: number, from where to where in it, and how far into the stretch that is."""
    for number in range(start // _PAGE, -(-stop // _PAGE)):
        first = number * _PAGE
        begin, end = max(start, first), min(stop, first + _PAGE)
        yield number, begin - first, end - first, begin - start


class Plan:
    """One HDF5 file, laid out.

    Args:
        build: makes everything in the file but the tensors.
        entries: the tensors, by their path in the file.
        marks: attributes for the tensors of which there is more to say, by path.

    Attributes:
        starts: for every path, the byte at which its tensor begins.
        size: the bytes of the file.
    """

    def __init__(
        self,
        build: Callable[[h5py.File], None],
        entries: Mapping[str, Entry],
        marks: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self._sketch = Sketch()
        self._lengths = {path: entry.nbytes for path, entry in entries.items()}
        with h5py.File(self._sketch, "w") as file:
            made = {path: _reserve(file, path, entry) for path, entry in entries.items()}
            for path, told in (marks or {}).items():
                made[path].attrs.update(told)
            build(file)
            self.starts = {path: dataset.id.get_offset() or 0 for path, dataset in made.items()}
        self.size = self._sketch.size

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Yield everything but the tensors."""
        return self._sketch.pieces()

    def crc32(self, sums: Mapping[str, int]) -> int:
        """Return the CRC-32 of the whole file from that of every tensor, by path."""
        total, at = 0, 0
        for start, path in sorted((start, path) for path, start in self.starts.items() if self._lengths[path]):
            total = self._add(total, at, start)
            total = joined(total, sums[path], self._lengths[path])
            at = start + self._lengths[path]
        return self._add(total, at, self.size)

    def _add(self, total: int, start: int, stop: int) -> int:
        for first in range(start, stop, len(_ZEROS)):
            total = crc32(self._sketch.content(first, min(stop, first + len(_ZEROS))), total)
        return total


def _reserve(file: h5py.File, path: str, entry: Entry) -> h5py.Dataset:
    """Make a dataset whose bytes have a place at once and are not written, with no date in it."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)
    plain = entry.dtype.kind in "biuf"
    dtype = entry.dtype if plain else np.dtype((np.void, entry.dtype.itemsize))  # of a kind that HDF5 does not know
    kind, space = h5py.h5t.py_create(dtype, logical=True), h5py.h5s.create_simple(entry.shape)
    folder, _, last = path.rpartition("/")
    group = file.require_group(folder or "/")
    return h5py.Dataset(h5py.h5d.create(group.id, last.encode(), kind, space, creation))
