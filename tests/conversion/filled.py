"""What the tests of writers share: a plan filled as the engine fills it, tensor by tensor, and read back."""

from pathlib import Path

import ml_dtypes
import numpy as np

from conversion.formats.base import Entry, Reader, Writer

RNG = np.random.default_rng(0)
#: One tensor of every kind that most formats hold.
ARRAYS = {
    "a/b/weight": RNG.standard_normal((3, 4)).astype("float32"),
    "a/b/bias": RNG.standard_normal(3).astype("float16"),
    "a/whole": np.arange(-3, 3).reshape(1, 6),
    "a/flags": np.array([True, False, True]),
    "b/single": np.array(2.5),
    "b/empty": np.zeros((0, 4), "float32"),
    "b/small": np.arange(5, dtype="uint8"),
}
FLOAT32 = {name: array for name, array in ARRAYS.items() if array.dtype == "float32"}
BFLOAT16 = {"c/short": RNG.standard_normal((5, 2)).astype(ml_dtypes.bfloat16)}


def entries_of(arrays: dict[str, np.ndarray]) -> list[Entry]:
    """Return what a writer wants to know of arrays."""
    return [Entry(name, array.shape, array.dtype) for name, array in arrays.items()]


def fill(writer: Writer, folder: Path, arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    """Write arrays into a plan's files, backwards, and return the bytes of every file."""
    folder.mkdir(parents=True, exist_ok=True)
    writer.begin(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(writer.files)
    filled = {place.file for place in writer.places.values()}
    sizes = {name: (folder / name).stat().st_size for name in filled}
    sums = {}
    for name, array in reversed(arrays.items()):
        data, place = array.tobytes(), writer.places[name]
        with (folder / place.file).open("rb+") as stream:
            stream.seek(place.offset)
            stream.write(data)
        half = len(data) // 2
        sums[name] = writer.sum(data[half:], writer.sum(data[:half], 0)) if writer.sum else 0
    writer.end(folder, sums)
    writer.end(folder, sums)  # a killed run may come here twice
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name: len(contents[name]) for name in filled} == sizes
    return contents


def assert_holds(reader: Reader, arrays: dict[str, np.ndarray]) -> None:
    """Hold what a reader lists and reads against arrays, bit by bit."""
    assert set(reader) == set(arrays)
    assert len(reader) == len(arrays)
    for name, array in arrays.items():
        assert name in reader
        assert reader[name] == Entry(name, array.shape, array.dtype)
        found = reader.read(name)
        assert (found.shape, found.dtype) == (array.shape, array.dtype)
        assert found.tobytes() == array.tobytes(), name
    assert "nothing of the kind" not in reader
