"""Read pickles and torch files without running anything they contain.

`pickle.load` calls whatever a file names (CVE-2023-7018 was a Transformer-XL vocabulary). Here every global that a
file names is looked up in one exact table and becomes an inert stand-in; a name that is not in the table becomes a
`Placeholder`, which records what the file says and does nothing. Nothing is ever imported. Before the C unpickler
sees a byte, `_scan` walks the opcodes and refuses those that genuine files do not use, and claims that the file is
too short for.

Three containers: one plain pickle; the torch stream (five pickles, then raw storages; PyTorch before 1.6); the torch
zip. Tensors come back as numpy arrays on the mapped file, so their bytes are read when they are used.
"""

import io
import mmap
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, cast

import numpy as np

from xlcore.errors import FormatError
from xlcore.inert import ARRAY_TYPE, KNOWN, Extent, Name, Placeholder, Sealed, Storage, Stored, size_of

__all__ = ["Placeholder", "Stored", "load"]

Data = bytes | mmap.mmap

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
#: Hashing a tuple descends into it without a check of depth, so their number is bounded (genuine files: < 10,000).
_MAX_TUPLES = 50_000
_MAX_DIRECTORY = 1 << 26  # bytes of a zip's list of what it holds

_FIXED, _LENGTH, _TUPLE, _STOP, _NAME, _LONG_PUT, _PROTO, _FRAME = range(8)
#: kind -> {size of the opcode, or of the length that follows it: the opcodes}; all others are refused.
_OPCODES = {
    _FIXED: {1: b"(N\x88\x89R\x81b)]ae}su\x8f\x90\x93\x94Q", 2: b"Kqh", 3: b"M", 5: b"Jj", 9: b"G"},
    _LENGTH: {1: b"\x8cUC\x8a", 4: b"XTB", 8: b"\x8d"},
    _TUPLE: {1: b"t\x85\x86\x87"},
    _STOP: {1: b"."},
    _NAME: {1: b"c"},
    _LONG_PUT: {5: b"r"},
    _PROTO: {2: b"\x80"},
    _FRAME: {9: b"\x95"},
}
_RULES = {code: (kind, size) for kind, sizes in _OPCODES.items() for size, codes in sizes.items() for code in codes}
_KINDS = [_RULES.get(code, (-1, 0))[0] for code in range(256)]
_WIDTHS = [_RULES.get(code, (-1, 0))[1] for code in range(256)]


def _bad(where: str, what: str) -> NoReturn:
    raise FormatError(f"{where}: {what}")


def _scan(data: Data, start: int, where: str) -> int:
    """Check the opcodes of the pickle at `start` and return where it ends."""
    end, position, tuples = len(data), start, 0
    kinds, widths = _KINDS, _WIDTHS
    while position < end:
        code = data[position]
        kind, width = kinds[code], widths[code]
        if kind == _FIXED:
            position += width
        elif kind == _LENGTH:
            body = position + 1 + width
            position = body + int.from_bytes(data[position + 1 : body], "little")
        elif kind == _STOP:
            return position + 1
        elif kind == _TUPLE:
            tuples += 1
            position += 1
        else:
            position = _scan_rare(data, position, start, kind, where)
        if tuples > _MAX_TUPLES:
            _bad(where, f"a pickle must hold at most {_MAX_TUPLES} tuples, got more")
    _bad(where, f"a pickle must end with STOP, got {end - start} bytes without it; is the file cut off?")


def _scan_rare(data: Data, position: int, start: int, kind: int, where: str) -> int:
    """Check one opcode that has a rule of its own and return where the next one stands."""
    end, argument = len(data), position + 1
    if kind == _NAME:
        first = data.find(b"\n", argument, argument + 1000)
        second = data.find(b"\n", first + 1, first + 1001) if first >= 0 else -1
        if second < 0:
            _bad(where, "the name of a global must be two lines of at most 1000 bytes, got more")
        return second + 1
    if kind == _LONG_PUT:  # the unpickler makes a table as long as the index says
        index = int.from_bytes(data[argument : argument + 4], "little")
        if index > end - start:
            _bad(where, f"a memo index must be smaller than the pickle, got {index}")
        return position + 5
    if kind == _PROTO:
        if position + 2 > end or not 2 <= data[argument] <= 5:
            _bad(where, f"the pickle protocol must be 2 to 5, got {data[argument : argument + 1].hex() or 'nothing'}")
        return position + 2
    if kind == _FRAME:
        size = int.from_bytes(data[argument : argument + 8], "little")
        if size > end - argument:
            _bad(where, f"a frame must fit in the file, got a claim of {size} bytes")
        return position + 9
    _bad(where, f"opcode 0x{data[position]:02x} at byte {position} must be one that data needs, got another")


class _Unpickler(pickle.Unpickler):
    """The C unpickler, with nothing to call but the stand-ins."""

    def __init__(self, data: bytes, where: str, strict: bool, encoding: str, storage: Callable[..., Storage] | None):
        # surrogateescape keeps the bytes of arrays that Python 2 wrote as strings
        errors = "surrogateescape" if encoding in ("utf-8", "ascii") else "strict"
        super().__init__(io.BytesIO(data), fix_imports=False, encoding=encoding, errors=errors)
        self._where, self._strict, self._storage = where, strict, storage
        self._classes: dict[tuple[str, str], type[Placeholder]] = {}

    def find_class(self, module: str, name: str) -> Any:
        key = (module, name)
        if key in KNOWN:
            return KNOWN[key]
        if self._strict:
            _bad(self._where, f"a global must be one that data needs, got {module}.{name}; it was not imported")
        if key not in self._classes:
            fields = {"__slots__": (), "module": module, "name": name}
            self._classes[key] = cast(type[Placeholder], Sealed("Placeholder", (Placeholder,), fields))
        return self._classes[key]

    def persistent_load(self, pid: Any) -> Storage | Sealed:
        if self._storage is None:
            _bad(self._where, "a plain pickle must not refer to storages, got such a reference")
        parts = pid if isinstance(pid, tuple) else ()
        if len(parts) == 4 and parts[0] == "module" and isinstance(parts[1], Sealed):
            return parts[1]  # the class of a pickled module, which a stream names with its source beside it
        if len(parts) < 5 or parts[0] != "storage" or not isinstance(parts[1], Name) or parts[1] is ARRAY_TYPE:
            kind = parts[1] if len(parts) > 1 else None
            told = f"type {kind.name}" if isinstance(kind, Sealed) and issubclass(kind, Placeholder) else "another"
            _bad(self._where, f"a reference must be ('storage', type, key, device, count), got {told:.80}")
        if len(parts) > 5 and parts[5] is not None:
            _bad(self._where, "a storage must not be a view of another, got one (PyTorch 0.3 or older)")
        return self._storage(str(parts[2]), parts[1].numpy(), size_of(parts[4]))


class _File:
    """One file: its bytes, where they come from, and how it is to be read."""

    def __init__(self, data: Data, where: str, strict: bool, encoding: str, stored: bool = False):
        self.data, self.where, self.strict, self.encoding, self.stored = data, where, strict, encoding, stored
        self.position = 0

    def pickle(self, storage: Callable[..., Storage] | None = None) -> Any:
        """Read the pickle that starts here, and go to its end."""
        end = _scan(self.data, self.position, self.where)
        body = bytes(self.data[self.position : end])
        self.position = end
        return _Unpickler(body, self.where, self.strict, self.encoding, storage).load()

    def numbers(self, key: str, place: tuple[int, int], dtype: np.dtype[Any], count: int, big: bool = False) -> Storage:
        """Return `count` numbers that lie at a place: from which byte, in how many bytes."""
        start, size = place
        if count * dtype.itemsize > size or start + size > len(self.data):
            _bad(self.where, f"a storage must lie in the file, got a claim of {count} numbers of type {dtype}")
        if self.stored:
            return Extent(key, start, dtype, count, big)
        found: np.ndarray[Any, Any] = np.frombuffer(self.data, dtype, count, start) if count else np.empty(0, dtype)
        found = found if found.flags.aligned else found.copy()
        return Storage(found.byteswap() if big else found)

    def read(self) -> Any:
        """Read the file, whichever container it is."""
        if not len(self.data):
            _bad(self.where, "a pickle must have at least one byte, got an empty file")
        if self.data[:2] == b"PK":
            return self.zip()
        found = self.pickle()
        if isinstance(found, int) and found == _MAGIC:
            return self.stream()
        return found

    def stream(self) -> Any:
        """Read the rest of a torch stream: version, machine, object, keys, then a count and numbers for each key."""
        version = self.pickle()
        if version != _PROTOCOL:
            _bad(self.where, f"the version of a torch stream must be {_PROTOCOL}, got {version!r:.40}")
        self.pickle()
        start = self.position
        claims: dict[str, tuple[np.dtype[Any], int]] = {}

        def claim(key: str, dtype: np.dtype[Any], count: int) -> Storage:
            """Take note of a storage; its place is known only after the object has been read."""
            if claims.setdefault(key, (dtype, count)) != (dtype, count):
                _bad(self.where, f"storage {key!r} must have one type and count, got two")
            return self.numbers(key, (0, len(self.data)), dtype, count)

        found = self.pickle(claim)
        keys = self.pickle()
        if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(claims):
            _bad(self.where, "the keys of a torch stream must be those that its tensors use, got others")
        if not keys:
            return found
        places = self._places([str(key) for key in keys], claims)
        self.position = start
        return self.pickle(lambda key, dtype, count: self.numbers(key, places[key], dtype, count))

    def _places(self, keys: list[str], claims: dict[str, tuple[np.dtype[Any], int]]) -> dict[str, tuple[int, int]]:
        places: dict[str, tuple[int, int]] = {}
        position = self.position
        for key in keys:
            dtype, count = claims[key]
            written = int.from_bytes(self.data[position : position + 8], "little")
            if written != count or position + 8 + count * dtype.itemsize > len(self.data):
                _bad(self.where, f"storage {key!r} must hold {count} numbers, got {written}; is the file cut off?")
            places[key] = (position + 8, count * dtype.itemsize)
            position += 8 + count * dtype.itemsize
        return places

    def zip(self) -> Any:
        """Read a torch zip: `<name>/data.pkl`, and `<name>/data/<key>` for each storage."""
        entries = self._entries()
        pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            _bad(self.where, f"a torch zip must have one <name>/data.pkl, got {len(pickles)}")
        folder = pickles[0].removesuffix("data.pkl")
        big = self._entry(entries, folder + "byteorder", b"little") == b"big"

        def storage(key: str, dtype: np.dtype[Any], count: int) -> Storage:
            if f"{folder}data/{key}" not in entries:
                _bad(self.where, f"a torch zip must hold the storages of its tensors, got none called {key!r:.40}")
            return self.numbers(key, entries[f"{folder}data/{key}"], dtype, count, big)

        inner = _File(self._entry(entries, pickles[0]), self.where, self.strict, self.encoding)
        return inner.pickle(storage)

    def _entry(self, entries: dict[str, tuple[int, int]], name: str, default: bytes = b"") -> bytes:
        start, size = entries.get(name, (0, 0))
        return bytes(self.data[start : start + size]) if name in entries else default

    def _entries(self) -> dict[str, tuple[int, int]]:
        """Return name -> (start, size) of what the zip stores; torch compresses nothing."""
        found: dict[str, tuple[int, int]] = {}
        with zipfile.ZipFile(io.BytesIO(self.data) if isinstance(self.data, bytes) else _Window(self.data)) as archive:
            for info in archive.infolist():
                head = self.data[info.header_offset : info.header_offset + 30]
                start = (
                    info.header_offset
                    + 30
                    + int.from_bytes(head[26:28], "little")
                    + int.from_bytes(head[28:], "little")
                )
                stored = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
                if not stored or head[:4] != b"PK\x03\x04" or start + info.file_size > len(self.data):
                    _bad(self.where, f"an entry of a torch zip must be stored whole, got {info.filename!r:.60}")
                found[info.filename] = (start, info.file_size)
        return found


class _Window(io.RawIOBase):
    """A mapped file as a file object, so that `zipfile` reads the directory without a copy of the rest."""

    def __init__(self, data: mmap.mmap):
        self._data, self._at = data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        end = len(self._data) if size is None or size < 0 else self._at + size
        if min(end, len(self._data)) - self._at > _MAX_DIRECTORY:
            raise FormatError(f"zip: the directory must have at most {_MAX_DIRECTORY} bytes, got a claim of more")
        found = self._data[self._at : end]
        self._at += len(found)
        return found


@contextmanager
def _only_format_errors(where: str) -> Iterator[None]:
    """Turn whatever a damaged file makes the unpickler raise into a FormatError."""
    try:
        yield
    except (FormatError, FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:
        raise FormatError(f"{where}: the file must be a whole pickle, got one that fails: {error}") from error


def load(
    source: str | os.PathLike[str] | bytes, *, strict: bool = False, encoding: str = "utf-8", stored: bool = False
) -> Any:
    """Return what a pickle, a torch stream or a torch zip holds; nothing of it is run or imported.

    Dicts of all kinds come back as dict, arrays and tensors as numpy arrays (bfloat16 through ml_dtypes).

    Args:
        source: a path, or the bytes of a file. A file is mapped: arrays of it are read when they are used, and writing
            to them does not change it (those of `bytes` cannot be written to).
        strict: refuse a global that is not in the table, instead of putting a `Placeholder` in its place.
        encoding: how to read the strings of Python 2: "utf-8", "latin1", or "bytes" to leave them as they are.
        stored: give for every torch tensor a `Stored`, which tells where in the file it lies, in place of an array.

    Raises:
        FormatError: for everything that is not as it should be.
        FileNotFoundError: for a missing file.
    """
    if isinstance(source, bytes):
        with _only_format_errors("pickle"):
            return _File(source, "pickle", strict, encoding, stored).read()
    where = os.fspath(source)
    with _only_format_errors(where), open(where, "rb") as file:
        empty = os.fstat(file.fileno()).st_size == 0
        data: Data = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return _File(data, where, strict, encoding, stored).read()
