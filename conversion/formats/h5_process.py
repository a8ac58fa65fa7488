"""What HDF5 files hold, asked of a process of its own: see `h5_child`."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from conversion.formats.base import Entry, Tensor, read_array
from xlcore.errors import FormatError

_CHILD = Path(__file__).with_name("h5_child.py")


@dataclass(frozen=True)
class Dataset:
    """One tensor of an HDF5 file.

    Attributes:
        file: the file that the HDF5 file is, or lies in.
        start: the byte of `file` at which it lies; None if it lies in pieces or packed.
        window: from which byte the HDF5 file goes, and its size.
        stored: its dtype as stored, which may be big-endian.
    """

    file: Path
    entry: Entry
    start: int | None
    window: tuple[int, int]
    stored: np.dtype[Any]

    def read(self) -> Tensor:
        """Read it.

        Raises:
            FormatError: if the file has changed or cannot be unpacked.
        """
        if self.start is not None:
            array = read_array(self.file, self.start, self.entry.shape, self.stored)
        else:
            array = np.empty(self.entry.shape, self.stored)
            _receive(self, array)
        return array.astype(self.entry.dtype) if self.stored != self.entry.dtype else array


@dataclass(frozen=True)
class Listing:
    """What an HDF5 file holds: its tensors by path in its own order, attributes of its root, names of its layers."""

    datasets: dict[str, Dataset]
    attributes: Mapping[str, str]
    layers: list[str]


def list_h5(file: Path, start: int = 0, size: int | None = None) -> Listing:
    """List an HDF5 file that is `size` bytes of a file, from `start`.

    Raises:
        FormatError: for a file that is damaged, lies, or holds what cannot be read safely.
    """
    try:
        window = start, file.stat().st_size if size is None else size
    except OSError as error:
        raise FormatError(f"{file}: must be there, got {error.strerror or error}") from error
    with _asked("list", file, window) as child:
        out = child.stdout.read()
    told = _told(file, out, child.returncode)
    found = {}
    for each in told["tensors"]:
        stored = np.dtype(ml_dtypes.bfloat16 if each["dtype"] == "bfloat16" else each["dtype"])
        native = stored if each["dtype"] == "bfloat16" else stored.newbyteorder("=")
        entry = Entry(each["path"], tuple(each["shape"]), native)
        where = None if each["start"] is None else start + each["start"]
        found[entry.name] = Dataset(file, entry, where, window, stored)
    return Listing(found, told["attributes"], told["layers"])


def list_all(files: Sequence[Path]) -> dict[Path, Listing]:
    """List several HDF5 files, some at a time."""
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(files, pool.map(list_h5, files), strict=True))


def _receive(dataset: Dataset, array: Tensor) -> None:
    room = array.reshape(-1).view(np.uint8).data
    with _asked("read", dataset.file, dataset.window, dataset.entry.name) as child:
        while room and (count := child.stdout.readinto(room)):
            room = room[count:]
        rest = child.stdout.read(1)
    if room or rest or child.returncode:
        where = f"{dataset.file}: {dataset.entry.name!r}"
        raise FormatError(f"{where} must unpack to {array.nbytes} bytes, got {'more' if rest else 'less'}")


@contextmanager
def _asked(what: str, file: Path, window: tuple[int, int], *more: str) -> Iterator[Any]:
    """Run the child, its output to be read; it is gone at the end."""
    command = [sys.executable, "-P", str(_CHILD), what, str(file), *map(str, window), *more]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet) as child:
        try:
            yield child
            child.stdout.close()  # type: ignore[union-attr]
            child.wait()
        finally:
            child.kill()


def _told(file: Path, out: bytes, code: int) -> dict[str, Any]:
    """Return what the child found, or raise what it met."""
    try:
        told: dict[str, Any] = json.loads(out)
    except ValueError as error:
        fate = f"it was stopped by signal {-code}" if code < 0 else f"it ended with {code}"
        raise FormatError(f"{file}: must be a whole HDF5 file, got one that its library fails on: {fate}") from error
    if "refused" in told:
        raise FormatError(f"{file}: {told['refused']}")
    if "failed" in told:
        raise FormatError(f"{file}: must be a whole HDF5 file, got one that its library fails on: {told['failed']}")
    return told
