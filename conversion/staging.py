"""The folder beside a destination in which a result is made: one process at a time, found again after a kill."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from conversion.folder import become, beside, holds_us
from conversion.journal import Journal
from xlcore.errors import FormatError


class Staging:
    """What is being made for a destination: its content so far, and the journal of what is done.

    Attributes:
        destination: the folder that the content will become.
        content: where it is made; what comes here last, takes the destination's place as a whole.
        journal: what is done.
    """

    def __init__(self, destination: Path, root: Path, journal: Journal) -> None:
        self.destination, self.journal = destination, journal
        self._root = root
        self.content = root / "content"

    def clear(self) -> None:
        """Begin anew: nothing is done, and the content is an empty folder."""
        self.journal.clear()
        shutil.rmtree(self.content, ignore_errors=True)
        self.content.mkdir()

    def finish(self) -> None:
        """Let the content become the destination, in one step.

        Raises:
            FormatError: if something has come to stand there meanwhile.
        """
        if not is_free(self.destination):
            raise not_free(self.destination)
        try:
            become(self.content, self.destination)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise not_free(self.destination) from error
            raise


def is_free(destination: Path) -> bool:
    """Tell whether a result can come to stand there: nothing does, or an empty folder."""
    if not destination.is_dir():
        return not destination.exists() and not destination.is_symlink()
    ours = root_of(destination.resolve()).name  # which lies within, where the destination is mounted
    return all(path.name == ours for path in destination.iterdir())


def not_free(destination: Path) -> FormatError:
    """Return the error for a destination where something stands."""
    what = "a folder with files in it" if destination.is_dir() else "a file"
    hint = "name another" if holds_us(destination) else "remove it, or name another"
    return FormatError(
        f"{destination}: must not exist yet, be an empty folder, or hold this very result, got {what}; {hint}"
    )


def require_elsewhere(destination: Path) -> None:
    """Raise FormatError if the current folder would be replaced: a shell would be left in one that is gone."""
    if holds_us(destination) and not destination.resolve().is_mount():
        what = "must not be the folder that you are in, or one around it"
        raise FormatError(f"{destination}: {what}, got {Path.cwd()} as the current one; name another")


def root_of(destination: Path) -> Path:
    """Return the staging folder of a destination, whether it is there or not."""
    return beside(destination) / f".{destination.name[:99]}.converting"


@contextmanager
def staged(destination: Path) -> Iterator[Staging]:
    """Open the staging folder of a destination, as it was left or new.

    It is removed at the end, after an error too; only who is killed or interrupted leaves it, to go on from there.

    Raises:
        FormatError: if another process works on the destination, or it cannot be written.
    """
    destination = destination.resolve()
    missing = [parent for parent in destination.parents if not parent.exists()]
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        handle = _locked(root := root_of(destination), destination)
    except OSError as error:
        _remove([], missing)
        raise FormatError(
            f"{destination}: must be writable, got {error.strerror or error}; nothing was written"
        ) from error
    try:
        yield Staging(destination, root, Journal(handle))
        shutil.rmtree(root, ignore_errors=True)
    except Exception:
        _remove([root], missing)
        raise
    finally:
        os.close(handle)


def _remove(folders: Sequence[Path], empty: Sequence[Path]) -> None:
    """Remove folders with all that is in them, and others, from within outwards, if nothing is in them."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    for folder in empty:
        with suppress(OSError):
            folder.rmdir()


def _locked(root: Path, destination: Path) -> int:
    """Open the journal of a staging folder for this process alone."""
    while True:
        root.mkdir(exist_ok=True)
        if root.is_symlink() or root.stat().st_uid != os.geteuid():  # what stands in it would be believed
            raise FormatError(f"{root}: must be a folder of your own, got another's; remove it, or name another place")
        try:
            handle = os.open(root / "journal", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            continue  # removed in this moment, by the process that had it
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if isinstance(error, BlockingIOError):
                raise FormatError(
                    f"{destination}: must be written by one process at a time, got another at it"
                ) from None
            raise
        if os.fstat(handle).st_nlink:
            return handle
        os.close(handle)
