"""Writing bytes into files that have their size already: large runs past the system's cache, the rest through it.

Past the cache a file is written several times as fast, what others have in the cache stays there, and what is read back
comes from the disk itself.
"""

import errno
import mmap
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

PAGE = 4096  # offsets, lengths and addresses must be multiples of it
ROOM = 16 << 20
LEAST = 1 << 20  # smaller runs go through the cache: each write past it waits for the disk


class Places:
    """The files of a folder, open one at a time to be written anywhere within their size.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name, self._cached, self._direct = "", -1, -1
        self._rooms = [_new_room(), _new_room()]  # one is filled while the other is written
        self._thread = ThreadPoolExecutor(1)
        self._running: Future[None] | None = None

    def write(self, name: str, offset: int, length: int, blocks: Iterable[memoryview]) -> None:
        """Write blocks of bytes, `length` in all, one after the other from an offset on."""
        self._open(name)
        if self._direct < 0 or length < LEAST:
            for block in blocks:
                _write(self._cached, block, offset)
                offset += len(block)
            return
        before = filled = offset % PAGE  # the room begins where a page does
        for block in blocks:
            while block:
                taken = min(len(block), ROOM - filled)
                self._rooms[0][filled : filled + taken] = block[:taken]
                block, filled, offset = block[taken:], filled + taken, offset + taken
                if filled == ROOM:
                    self._begin(offset - filled, before, filled)
                    before = filled = 0
        self._begin(offset - filled, before, filled)
        self._wait()

    def _begin(self, start: int, before: int, filled: int) -> None:
        """Begin to write what is in the room, once the other one is written, which is the next to be filled."""
        self._wait()
        self._running = self._thread.submit(self._put, self._rooms[0], start, before, filled)
        self._rooms.reverse()

    def _wait(self) -> None:
        if self._running:
            running, self._running = self._running, None
            running.result()

    def _put(self, room: memoryview, start: int, before: int, filled: int) -> None:
        """Write what is in a room from `before` on: whole pages past the cache, and parts of one through it."""
        first, last = before + -before % PAGE, filled - filled % PAGE
        if first >= last or not self._put_past(room[first:last], start + first):
            first = last = filled
        for low, high in ((before, first), (last, filled)):
            _write(self._cached, room[low:high], start + low)

    def _put_past(self, pages: memoryview, offset: int) -> bool:
        """Write pages past the cache; tell if the file system will not, and do not ask it again for this file."""
        if self._direct < 0:
            return False
        try:
            _write(self._direct, pages, offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            os.close(self._direct)
            self._direct = -1
        return self._direct >= 0

    def _open(self, name: str) -> None:
        if name == self._name:
            return
        self._close()
        path = self._folder / name
        self._cached, self._name = os.open(path, os.O_WRONLY), name
        with suppress(OSError):  # not every file system has a way past its cache
            self._direct = os.open(path, os.O_WRONLY | getattr(os, "O_DIRECT", 0))

    def close(self) -> None:
        """Wait for what is being written, and close what is open."""
        self._thread.shutdown()
        self._close()

    def _close(self) -> None:
        for handle in (self._cached, self._direct):
            if handle >= 0:
                os.close(handle)
        self._name, self._cached, self._direct = "", -1, -1


def _new_room() -> memoryview:
    memory = mmap.mmap(-1, ROOM, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # which begins at a page
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def _write(handle: int, block: memoryview, offset: int) -> None:
    while block:
        count = os.pwrite(handle, block, offset)
        block, offset = block[count:], offset + count
