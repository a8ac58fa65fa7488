"""Replacing the content of a folder in one step, so that a crash or a full disk leaves the old one whole."""

import ctypes
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from xlcore.errors import FormatError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def replaced(folder: Path, drop: Callable[[str], bool]) -> Iterator[Path]:
    """Give an empty folder to write into; at the end it stands in place of `folder`, whole, or nothing has changed.

    Files of the old folder come along, except those whose name `drop` tells to leave out and those written anew.

    Raises:
        FormatError: if `folder` is a file.
    """
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise FormatError(f"{folder}: must be a folder, or not exist yet, got a file")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name[:99]}.", dir=beside(folder)))
    except OSError as error:
        raise FormatError(f"{folder}: must be writable, got {error.strerror or error}") from error
    try:
        yield staging
        put_in_place(staging, folder, drop)
    except OSError as error:
        raise FormatError(f"{folder}: must be writable, got {error.strerror or error}; it is as it was") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def beside(folder: Path) -> Path:
    """Return where what will become a folder is made: beside it, or within one that cannot be moved, a mounted one."""
    return folder if folder.is_mount() else folder.parent


def put_in_place(staging: Path, folder: Path, drop: Callable[[str], bool]) -> None:
    """Let a folder made beside another take its place, once the disk holds it; `replaced` says what comes along."""
    _flush_all(staging)
    written = {file.name for file in staging.iterdir()}
    if folder.is_mount() or holds_us(folder):
        _move_in(staging, folder, drop)
    elif folder.exists():
        staging.chmod(folder.stat().st_mode)
        _bring_along(folder, staging, lambda name: name in written or drop(name))
        _exchange(folder, staging)
        _bring_along(staging, folder, lambda name: name in written or drop(name))  # what others made meanwhile
    else:
        become(staging, folder)
    _flush(folder.parent)


def become(staging: Path, folder: Path) -> None:
    """Let a folder made beside become another that is not there, or empty, once the disk holds it.

    Raises:
        OSError: ENOTEMPTY, if there is something in it; that stays.
    """
    _flush_all(staging)
    if folder.is_mount():
        _move_in(staging, folder, drop=lambda name: False)
    else:
        staging.chmod(folder.stat().st_mode if folder.exists() else 0o777 & ~_umask())
        staging.rename(folder)  # onto an empty folder, too, and onto no other
    _flush(folder.parent)


def holds_us(folder: Path) -> bool:
    """Tell whether the current folder is this one or lies in it: a shell would be left in one that is gone."""
    try:
        return Path.cwd().is_relative_to(folder.resolve())
    except FileNotFoundError:  # the current folder is gone
        return False


def _flush_all(folder: Path) -> None:
    for file in folder.iterdir():
        _flush(file)


def _move_in(staging: Path, folder: Path, drop: Callable[[str], bool]) -> None:
    """Move file by file into a folder that cannot be moved itself, a mounted one: each file is whole at any moment."""
    written = sorted(staging.iterdir(), key=lambda file: file.suffix == ".json")  # what points to others comes last
    for file in written:
        file.replace(folder / file.name)
    for path in folder.iterdir():
        if drop(path.name) and path.name not in {file.name for file in written}:
            path.unlink()


def _bring_along(old: Path, new: Path, drop: Callable[[str], bool]) -> None:
    """Link what stays into the new folder; the old one keeps it too, until it goes."""
    for path in old.iterdir():
        target = new / path.name
        if drop(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            target.mkdir(exist_ok=True)
            shutil.copystat(path, target)
            _bring_along(path, target, drop=lambda name: False)
        elif not os.path.lexists(target):
            _link(path, target)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without links
        shutil.copy2(source, target, follow_symlinks=False)


def _exchange(old: Path, new: Path) -> None:
    """Swap two folders in one step of the file system where it can, else in two quick ones."""
    libc = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(old), os.fsencode(new)
    if hasattr(libc, "renameat2") and not libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE):
        return
    aside = new.with_name(new.name + ".old")
    old.rename(aside)
    try:
        new.rename(old)
    except BaseException:
        aside.rename(old)
        raise
    try:
        aside.rename(new)
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # it is not there any more, if all went well


def _flush(path: Path) -> None:
    """Have the disk hold what was written before anything points to it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
