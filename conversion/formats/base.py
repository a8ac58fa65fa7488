"""What every file format offers: a reader that lists without loading, and a writer that is a plan of places.

A writer does not copy data. It says where each tensor will lie, byte by byte, lays down everything around the data,
and closes the files once the data is in place. One engine (`conversion.writing`) fills the places for all formats,
one tensor at a time; because the places are known beforehand it can be stopped at any moment and go on later.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from conversion.reading import read_run
from xlcore.errors import FormatError

Tensor = np.ndarray[Any, Any]
Index = tuple[Any, ...]


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its name, shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """The bytes of its data."""
        return math.prod(self.shape) * self.dtype.itemsize


class Reader(ABC):
    """All tensors of a checkpoint in one format; nothing is read until it is asked for.

    Iterating yields names in the order of the file; `reader[name]` is its `Entry`.

    Args:
        path: a file, a folder, or what else tells of a checkpoint in the format.

    Attributes:
        format: the name of the format, as in `conversion.formats.FORMATS`.
        files: every file that the tensors lie in, and indexes.
        extras: what else the file holds beside tensors, inert: arguments, dictionaries, a model's config.
        shared: names of tensors that lie where another one lies: the second name -> the first. Both are names here.
        aside: tensors that are not the model's and so no names here, such as an optimizer's: listed, never read.
        notes: what a person should know of how the file was read.
    """

    format: ClassVar[str] = ""
    files: tuple[Path, ...] = ()
    extras: Mapping[str, Any] = {}
    shared: Mapping[str, str] = {}
    aside: Mapping[str, Entry] = {}
    notes: tuple[str, ...] = ()
    _tensors: Mapping[str, Any] = {}  # by name whatever a format keeps of where a tensor lies

    @abstractmethod
    def __init__(self, path: Path) -> None: ...

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __len__(self) -> int:
        return len(self._tensors)

    @abstractmethod
    def __getitem__(self, name: str) -> Entry: ...

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """Read one tensor. What is returned holds no more memory than the tensor itself."""

    def mapped(self, name: str) -> Tensor | None:
        """Map one tensor, so that it is read when it is touched, and what is changed is not written; None if it cannot.

        Only a format in which tensors lie as memory has them can. A file that is cut off meanwhile kills the process.
        """
        return None


@dataclass(frozen=True)
class Place:
    """Where the bytes of one tensor lie: in which file of the folder, from which byte; little-endian, C order."""

    file: str
    offset: int


class Writer(ABC):
    """The plan of one checkpoint in one format. Making it touches no disk, and the same arguments plan the same bytes.

    Args:
        entries: what will be written, in order.
        max_bytes: the size beyond which a further file is begun, in formats that have shards; 0 for no limit.
        extras: what else the file is to hold, as a reader of the format gives it.
        shared: further names for some of the entries, new name -> name of the entry, in formats that can say so.
        name: the file to write, in place of the name that the format is known by; shards are called after it.

    Attributes:
        places: for every entry, where its bytes go; for one in several pieces where each does (`pieces`).
        files: every file that `begin` makes, in the folder.
        sum: a running checksum that the format wants of each tensor's bytes, `sum(bytes, before) -> after`, or None.
    """

    places: Mapping[str, Place]
    files: tuple[str, ...]
    sum: Callable[[Any, int], int] | None = None

    @abstractmethod
    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        max_bytes: int = 0,
        extras: Mapping[str, Any] | None = None,
        shared: Mapping[str, str] | None = None,
        name: str = "",
    ) -> None: ...

    def pieces(self, name: str) -> Mapping[str, Index]:
        """Return what is written of an entry: by its key in `places` the index of each piece in the tensor.

        All of it lies in one place, under its name, but where a model comes in parts.
        """
        return {name: (...,)}

    @abstractmethod
    def begin(self, folder: Path) -> None:
        """Make every file at its full size, with everything in it that is known before the data."""

    @abstractmethod
    def end(self, folder: Path, sums: Mapping[str, int]) -> None:
        """Write what is known only after the data, given the checksum of each piece; may be called twice."""


def refuse_shared(where: str, shared: Mapping[str, str] | None) -> None:
    """Raise FormatError if tensors are to share their bytes in a format in which each has its own."""
    if shared:
        first = next(iter(shared))
        raise FormatError(
            f"{where}: every tensor must have bytes of its own, got {first!r} shared; give it as an entry"
        )


# ------------------------------------------------------------------------------------------------- bytes of files


def read_array(file: Path, offset: int, shape: Sequence[int], dtype: np.dtype[Any]) -> Tensor:
    """Read an array that lies in a file in C order, into memory of its own.

    The file is read, not mapped: a file that is cut off meanwhile is an error then, and no crash.

    Raises:
        FormatError: if the file is gone, cannot be read, or ends before the array does.
    """
    count = math.prod(shape) * dtype.itemsize
    try:
        with file.open("rb", buffering=0) as stream:
            found = read_run(stream.fileno(), file, offset, count, dtype.alignment)
    except FileNotFoundError as error:
        raise FormatError(f"{file}: must be there, got no such file") from error
    except OSError as error:
        raise FormatError(f"{file}: must be readable, got {error.strerror or error}") from error
    if len(found) < count:
        raise FormatError(f"{file}: must hold all its tensors, got {count - len(found)} bytes too few; is it cut off?")
    array: Tensor = found.view(dtype).reshape(shape)
    return array


def lay(file: Path, size: int, pieces: Iterable[tuple[int, bytes]]) -> None:
    """Make a file of a size that holds pieces of bytes at offsets, and nothing but zeros elsewhere."""
    with file.open("wb") as stream:
        put(stream, pieces)
        stream.truncate(size)


def put(stream: BinaryIO, pieces: Iterable[tuple[int, bytes]]) -> None:
    """Write pieces of bytes at their offsets."""
    for offset, piece in pieces:
        stream.seek(offset)
        stream.write(piece)
