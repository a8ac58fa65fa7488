"""Reading large runs of bytes: past the system's cache where they are not in it, into memory that is used again.

What is read once need not push out what others have in the cache; and memory that a process has had before costs
nothing, while the system must find and clear what it has not.
"""

import ctypes
import mmap
import os
import weakref
from contextlib import suppress
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np

from conversion.places import PAGE

LEAST = 4 << 20  # bytes; smaller runs are read as usual
_LEAST_SPARE = 1 << 20  # bytes; smaller memory is not kept
_SPARE = 96 << 20  # of all that is kept; one that is larger is kept alone
_HUGE = 2 << 20  # a large page of the system: memory comes in these, so that what comes back fits who asks next

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_LIBC = ctypes.CDLL(None)
_spare: list[mmap.mmap] = []  # the largest first
_lock = RLock()  # whoever gives memory back may do so anywhere


def read_run(handle: int, path: Path, offset: int, count: int, aligned: int = 8) -> Bytes:
    """Read bytes of an open file from an offset on; fewer come back where the file ends before.

    What comes back begins in memory at a multiple of `aligned`, so that numbers may lie there.

    Raises:
        OSError: if reading fails.
    """
    if count < LEAST:
        small: Bytes = np.empty(count, np.uint8)
        return small[: _read(handle, small.data, offset)]
    before = offset % PAGE
    direct = -1 if before % aligned or _is_cached(handle, offset, count) else _opened_past(path)
    if direct < 0:
        array = room(count)
        return array[: _read(handle, array.data, offset)]
    try:
        array = room(before + count + -(before + count) % PAGE)
        done = _read_past(direct, array.data, offset - before)
    finally:
        os.close(direct)
    done += _read(handle, array.data[done : before + count], offset - before + done)
    return array[before : max(before, min(done, before + count))]


def room(count: int) -> Bytes:
    """Return memory that begins at a page; it is kept for the next who asks, once nobody has it."""
    step = _HUGE if count >= _HUGE else PAGE
    size = count + -count % step
    memory = _taken(size)
    if memory is None:
        memory = mmap.mmap(-1, max(size, PAGE), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
    array = np.frombuffer(memory, np.uint8)
    if len(memory) >= _LEAST_SPARE:
        weakref.finalize(array, _keep, memory).atexit = False
    return array[:count]


def _taken(size: int) -> mmap.mmap | None:
    """Take memory that is kept, the smallest that will do and is not much larger; None if there is none."""
    with _lock:
        fitting = [memory for memory in _spare if size <= len(memory) <= 2 * size]
        if fitting:
            _spare.remove(fitting[-1])
            return fitting[-1]
        most = _SPARE if size <= _SPARE else 0  # before there is more, much goes that nobody uses
        _spare[:] = [memory for memory in _spare if len(memory) <= most]
    return None


def _keep(memory: mmap.mmap) -> None:
    """Keep the largest of what is kept and what comes back."""
    with _lock:
        kept: list[mmap.mmap] = []
        for each in sorted([*_spare, memory], key=len, reverse=True):
            if not kept or sum(map(len, [*kept, each])) <= _SPARE:
                kept.append(each)
        _spare[:] = kept


def let_go() -> None:
    """Give back to the system what is kept for the next who asks."""
    with _lock:
        _spare.clear()


def _is_cached(handle: int, offset: int, count: int) -> bool:
    """Tell whether most of a run is in the cache; where nobody can tell, it counts as cached."""
    ask = getattr(_LIBC, "mincore", None)
    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    length = offset + count - start
    if ask is None or os.fstat(handle).st_size < start + length:
        return True
    pages = np.zeros(-(-length // PAGE), np.uint8)
    mapped = mmap.mmap(handle, length, access=mmap.ACCESS_COPY, offset=start)  # looked at, never touched
    first = ctypes.c_char.from_buffer(mapped)
    failed = ask(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(length), ctypes.c_void_p(pages.ctypes.data))
    return bool(failed) or bool(np.count_nonzero(pages & 1) > len(pages) // 2)


def _opened_past(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT)
    except (OSError, AttributeError):  # not every system and file system has a way past its cache
        return -1


def _read_past(handle: int, into: memoryview, offset: int) -> int:
    """Read whole pages past the cache; stop where that ends, at the end of the file at the latest."""
    done = 0
    with suppress(OSError):  # what is wrong with the file is met again in reading the rest as usual
        while done < len(into) and (count := os.preadv(handle, [into[done:]], offset + done)):
            done += count
            if count % PAGE:
                break
    return done


def _read(handle: int, into: memoryview, offset: int) -> int:
    done = 0
    while done < len(into) and (count := os.preadv(handle, [into[done:]], offset + done)):
        done += count
    return done
