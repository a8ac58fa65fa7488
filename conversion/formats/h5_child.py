"""Reading HDF5 files of strangers, in a process of its own: a file that crashes or stalls the C library ends it alone.

Run by `h5_process` as `python h5_child.py list|read PATH START SIZE [NAME]`: the HDF5 file is SIZE bytes of PATH from
START. What is found goes to standard output: JSON, or the bytes of one tensor in C order. This file imports nothing
of ours.
"""

import io
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

_SECONDS, _ROOM = 30, 512 << 20
_MOST_OBJECTS, _DEEPEST = 200_000, 64
_FREE, _RATIO = 64 << 20, 100  # a tensor larger than the first may be so much larger than what is stored of it
_LARGEST_CHUNK = 256 << 20
_FILTERS = {1, 2, 3, 32000}  # deflate, shuffle, a checksum, lzf: those that need no plug-in
_HARD = h5py.h5l.TYPE_HARD


class Refused(Exception):
    """What is wrong with the file."""


class Window(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, path: str, start: int, size: int) -> None:
        self._stream = open(path, "rb", buffering=0)  # noqa: SIM115 - the process ends soon
        self._start, self.size, self._at = start, size, 0

    def seekable(self) -> bool:
        """Tell that any place can be gone to."""
        return True

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def readinto(self, room: Any) -> int:
        """Read into given memory."""
        view = memoryview(room).cast("B")
        self._stream.seek(self._start + self._at)
        count = self._stream.readinto(view[: max(0, self.size - self._at)]) or 0
        self._at += count
        return count


def limit(room: int, seconds: int) -> None:
    """Have the system end this process if it takes much more memory or time than it needs."""
    try:
        import resource
    except ImportError:  # no POSIX
        return
    limits = {resource.RLIMIT_CPU: seconds, resource.RLIMIT_CORE: 0}
    status = Path("/proc/self/statm")
    if status.exists():
        limits[resource.RLIMIT_AS] = int(status.read_text().split()[0]) * resource.getpagesize() + room
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


# -------------------------------------------------------------------------------------------------------- listing


def listing(file: h5py.File, size: int) -> dict[str, Any]:
    """Return every tensor of a file, in the order in which its layers name them, and the attributes of the root."""
    if file.userblock_size:
        raise Refused(f"must begin with its own header, got {file.userblock_size} bytes before it")
    tensors = {path: tensor(path, dataset, size) for path, dataset in datasets(file)}
    order = list(dict.fromkeys(path for path in named(file) if path in tensors))
    order += sorted(tensors.keys() - set(order))
    attributes = {key: plain(file.attrs.get(key)) for key in ("backend", "keras_version") if key in file.attrs}
    layers = names_in(file, "layer_names")
    return {"tensors": [tensors[path] for path in order], "attributes": attributes, "layers": layers}


def datasets(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield every dataset with its path; only what lies in the file itself, once."""
    waiting: list[tuple[str, h5py.Group, int]] = [("", file, 0)]
    seen = {h5py.h5o.get_info(file.id).addr}
    count = 0
    while waiting:
        path, group, depth = waiting.pop()
        for name in group:
            inner = f"{path}/{name}".removeprefix("/")
            count += 1
            if count > _MOST_OBJECTS or depth > _DEEPEST:
                raise Refused(f"must hold at most {_MOST_OBJECTS} objects {_DEEPEST} deep, got more")
            if group.id.links.get_info(name.encode("utf-8", "surrogateescape")).type != _HARD:
                raise Refused(f"{inner!r} must lie in the file itself, got a link")
            found = group[name]
            address = h5py.h5o.get_info(found.id).addr
            if address in seen:
                raise Refused(f"{inner!r} must lie in one place, got it in two")
            seen.add(address)
            if isinstance(found, h5py.Dataset):
                yield inner, found
            elif isinstance(found, h5py.Group):
                waiting.append((inner, found, depth + 1))


def tensor(path: str, dataset: h5py.Dataset, size: int) -> dict[str, Any]:
    """Return what there is to say of a dataset; `start` is where it lies if it lies there as it is."""
    creation = dataset.id.get_create_plist()
    layout = creation.get_layout()
    if dataset.external or layout == h5py.h5d.VIRTUAL or creation.get_external_count():
        raise Refused(f"{path!r} must lie in the file itself, got one in other files")
    shape, dtype = dataset.shape, dtype_of(path, dataset)
    if shape is None:
        raise Refused(f"{path!r} must have a shape, got an empty dataspace")
    claimed, held = math.prod(shape) * dataset.dtype.itemsize, dataset.id.get_storage_size()
    start = dataset.id.get_offset() if layout == h5py.h5d.CONTIGUOUS and held else None
    if start is not None and (held != claimed or start + claimed > size):
        raise Refused(f"{path!r} must lie in the file as a whole, got shape {list(shape)} in {held} bytes")
    if start is None and claimed > max(_FREE, _RATIO * min(held, size)):
        raise Refused(f"{path!r} must not unpack to over {_RATIO} times what is stored, got shape {list(shape)}")
    if layout == h5py.h5d.CHUNKED:
        check_chunks(path, dataset, creation)
    return {"path": path, "shape": list(shape), "dtype": dtype, "start": start}


def dtype_of(path: str, dataset: h5py.Dataset) -> str:
    """Return the dtype of a dataset by name; Keras stores bfloat16 as opaque bytes and says so beside them."""
    dtype = dataset.dtype
    if dtype.kind in "biuf" and dtype.names is None and dtype.subdtype is None and dtype.itemsize <= 8:
        return str(dtype.str)
    marked = plain(dataset.attrs.get("dtype")) if "dtype" in dataset.attrs else ""
    if dtype.kind == "V" and dtype.itemsize == 2 and marked == "bfloat16":
        return "bfloat16"
    raise Refused(f"{path!r} must hold numbers, got {dtype}")


def check_chunks(path: str, dataset: h5py.Dataset, creation: Any) -> None:
    """Refuse chunks that are too large to be unpacked, and filters that would need a plug-in."""
    if math.prod(dataset.chunks) * dataset.dtype.itemsize > _LARGEST_CHUNK:
        raise Refused(f"{path!r} must have chunks of at most {_LARGEST_CHUNK} bytes, got {list(dataset.chunks)}")
    filters = [creation.get_filter(number)[0] for number in range(creation.get_nfilters())]
    if unknown := [number for number in filters if number not in _FILTERS]:
        raise Refused(f"{path!r} must be packed with deflate, shuffle or lzf, got filter {unknown[0]}")


def named(file: h5py.File) -> Iterator[str]:
    """Yield the paths of weights as `layer_names` and `weight_names` list them."""
    for layer in names_in(file, "layer_names"):
        held = file.get(layer)
        if isinstance(held, h5py.Dataset):
            yield layer
        elif isinstance(held, h5py.Group):
            weights = names_in(held, "weight_names")
            yield from (f"{layer}/{weight}" for weight in weights)
            if lost := [weight for weight in weights if not isinstance(held.get(weight), h5py.Dataset)]:
                raise Refused(f"{layer!r} must hold its weight {lost[0]!r}, got a file without it")


def names_in(group: h5py.Group, key: str) -> list[str]:
    """Return a list of names that an attribute holds, or several numbered ones where it was too long for one."""
    keys = [key] if key in group.attrs else []
    while keys[:1] != [key] and f"{key}{len(keys)}" in group.attrs:
        keys.append(f"{key}{len(keys)}")
    found = [plain(group.attrs[each]) for each in keys]
    return [name for names in found for name in (names if isinstance(names, list) else [names])]


def plain(value: Any) -> Any:
    """Return an attribute's text, or list of texts."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return [plain(each) for each in value.reshape(-1).tolist()]
    return value if isinstance(value, str) else str(value)


# -------------------------------------------------------------------------------------------------------- reading


def send(dataset: h5py.Dataset, out: io.BufferedIOBase | Any) -> None:
    """Write a tensor out, some rows at a time."""
    if not dataset.shape:
        out.write(dataset[()].tobytes())
        return
    width = max(1, math.prod(dataset.shape[1:]) * dataset.dtype.itemsize)
    step = dataset.chunks[0] if dataset.chunks and dataset.chunks[0] * width <= _LARGEST_CHUNK else 1
    rows = max(1, _FREE // width // step) * step
    for first in range(0, dataset.shape[0], rows):
        out.write(np.ascontiguousarray(dataset[first : first + rows]).data)


def main(arguments: Sequence[str]) -> None:
    """Do what the arguments ask, and tell what came of it."""
    what, path, start, size, *name = arguments
    limit(_ROOM if what == "list" else 4 * _ROOM, _SECONDS if what == "list" else 100 * _SECONDS)
    out = sys.stdout.buffer
    try:
        with h5py.File(Window(path, int(start), int(size)), "r") as file:
            if what == "list":
                out.write(json.dumps(listing(file, int(size))).encode())
            else:
                send(file[name[0]], out)
    except Refused as error:
        out.write(json.dumps({"refused": str(error)}).encode())
    except Exception as error:
        out.write(json.dumps({"failed": f"{type(error).__name__}: {error}"}).encode())
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
