"""What every file format offers: a reader that lists without loading, and a writer that is a plan of places.

A writer does not copy data. It says where each tensor will lie, byte by byte, lays down everything around the data,
and closes the files once the data is in place. One engine (`conversion.writing`) fills the places for all formats,
one tensor at a time; because the places are known beforehand it can be stopped at any moment and go on later.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Tensor = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its name, shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """The bytes of its data."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class Reader(ABC):
    """All tensors of a checkpoint in one format; nothing is read until it is asked for.

    Iterating yields names in the order of the file; `reader[name]` is its `Entry`.

    Attributes:
        files: every file that the tensors lie in, and indexes.
        extras: what else the file holds beside tensors, inert: arguments, dictionaries, a model's config.
    """

    files: tuple[Path, ...] = ()
    extras: Mapping[str, Any] = {}

    @abstractmethod
    def __iter__(self) -> Iterator[str]: ...

    @abstractmethod
    def __getitem__(self, name: str) -> Entry: ...

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """Read one tensor. What is returned holds no more memory than the tensor itself."""

    def __contains__(self, name: object) -> bool:
        return name in set(self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


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

    Attributes:
        places: for every tensor, where its bytes go.
        sum: a running checksum that the format wants of each tensor's bytes, `sum(bytes, before) -> after`, or None.
    """

    places: Mapping[str, Place]
    sum: Callable[[Any, int], int] | None = None

    @abstractmethod
    def __init__(self, entries: Sequence[Entry], *, max_bytes: int = 0, extras: Mapping[str, Any] | None = None): ...

    @abstractmethod
    def begin(self, folder: Path) -> None:
        """Make every file at its full size, with everything in it that is known before the data."""

    @abstractmethod
    def end(self, folder: Path, sums: Mapping[str, int]) -> None:
        """Write what is known only after the data, given the checksum of each tensor; may be called twice."""
