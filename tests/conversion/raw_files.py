"""A format for tests of the engine: a header, then tensors one after the other; the smallest writer there can be."""

import json
import zlib
from pathlib import Path

import numpy as np

from conversion.blocks import cast_into
from conversion.formats.base import Entry, Place, Writer
from conversion.writing import Made, Piece

HEADER = 64
Arrays = dict[str, np.ndarray]


class RawWriter(Writer):
    """Files `data-0`, `data-1`...; at the end a file `sums` with the CRC-32 of every tensor."""

    sum = staticmethod(zlib.crc32)

    def __init__(self, entries, *, max_bytes=0, extras=None, shared=None, name=""):
        self.places, self._ends = {}, {"data-0": HEADER}
        for entry in entries:
            file = list(self._ends)[-1]
            if max_bytes and self._ends[file] + entry.nbytes > max_bytes:
                file = f"data-{len(self._ends)}"
                self._ends[file] = HEADER
            self.places[entry.name] = Place(file, self._ends[file])
            self._ends[file] += entry.nbytes
        self.files = tuple(self._ends)

    def begin(self, folder: Path) -> None:
        for name, end in self._ends.items():
            (folder / name).write_bytes(b"raw".ljust(HEADER))
            with (folder / name).open("rb+") as stream:
                stream.truncate(end)

    def end(self, folder: Path, sums) -> None:
        (folder / "sums").write_text(json.dumps(dict(sums), sort_keys=True))


def arrays_of(count: int = 12, seed: int = 0, size: int = 40) -> Arrays:
    """Draw tensors of several shapes, some of them turned, so that they do not lie in C order."""
    rng = np.random.default_rng(seed)
    shapes = [(size,), (size, size + 3), (3, 4, size), (), (0, 3)]
    drawn = {f"t{number}": rng.standard_normal(shapes[number % 5], dtype="float32") for number in range(count)}
    return {name: array.T if index % 2 else array for index, (name, array) in enumerate(drawn.items())}


def pieces_of(arrays: Arrays, dtype: str = "float32", hook=lambda name: None) -> list[Piece]:
    """Return the pieces that write arrays as they are, or cast; `hook` is called before each is made."""

    def make(name: str) -> Made:
        hook(name)
        data = np.empty(arrays[name].shape, dtype)
        rounding = cast_into(data, arrays[name], name)
        return Made(data, {f"canonical {name}": data}, {f"canonical {name}": rounding})

    return [
        Piece(Entry(name, array.shape, np.dtype(dtype)), lambda name=name: make(name)) for name, array in arrays.items()
    ]


def writer_of(pieces: list[Piece], max_bytes: int = 0) -> RawWriter:
    return RawWriter([piece.entry for piece in pieces], max_bytes=max_bytes)
