"""What stands in the place of everything that a pickle names: inert things that record, check or decode.

The pickle machine can do five things to what it is given: call it (REDUCE), make an instance (NEWOBJ), set its state
(BUILD), put items into it (APPENDS, SETITEMS) and refer to it again. Each class here answers each of them, and none
can be altered by a file: classes are `Sealed`, functions and types are `Inert`. See `xlcore.pickles` for the reader.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from xlcore.errors import FormatError

#: A tensor may repeat its storage (stride 0), but not to a size out of proportion.
_MAX_EXPANDED = 1 << 24


class Sealed(type):
    """A class that no file can alter: BUILD may name a class and set attributes on it."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise FormatError(f"pickle: a class must stay as it is, got a new value for {name!r}")


class Placeholder(metaclass=Sealed):
    """An object of a class that is not read: what the file says about it, and no behaviour.

    `module` and `name` say which class or function the file named; `args` what it was called with; `state` what was
    to be set on it; `items` what was put into it, where it is a list (the items) or a dict (key, value).
    """

    __slots__ = ("args", "items", "state")
    module = ""
    name = ""

    def __new__(cls, *args: object) -> "Placeholder":
        made = object.__new__(cls)
        object.__setattr__(made, "args", args)
        object.__setattr__(made, "state", None)
        object.__setattr__(made, "items", [])
        return made

    args: tuple[object, ...]
    state: object
    items: list[object]

    def __init__(self, *args: object) -> None:
        """Take any arguments: they are kept, not used."""

    def __setattr__(self, name: str, value: object) -> None:
        raise FormatError(f"pickle: a placeholder must stay as the file made it, got a new value for {name!r}")

    def __setstate__(self, state: object) -> None:
        object.__setattr__(self, "state", state)

    def __setitem__(self, key: object, value: object) -> None:
        self.items.append((key, value))

    def append(self, item: object) -> None:
        """Record an item of a list-like object."""
        self.items.append(item)

    def add(self, item: object) -> None:
        """Record an item of a set-like object."""
        self.items.append(item)

    @property
    def attributes(self) -> dict[str, Any]:
        """Return the recorded attributes by name (Python 2 names given as bytes are decoded)."""
        parts = self.state if isinstance(self.state, tuple) else (self.state,)
        found: dict[str, Any] = {}
        for part in parts:
            if isinstance(part, dict):
                found |= {k.decode("utf-8", "replace") if isinstance(k, bytes) else str(k): v for k, v in part.items()}
        return found

    def __repr__(self) -> str:
        return f"<Placeholder {self.module}.{self.name}>"


def placeholder(module: str, name: str, attributes: dict[str, Any]) -> Placeholder:
    """Return what a file would be read as that holds an object of a class, with these attributes."""
    made: Placeholder = Sealed("Placeholder", (Placeholder,), {"__slots__": (), "module": module, "name": name})()
    made.__setstate__(attributes)
    return made


class PlainDict(dict[Any, Any], metaclass=Sealed):
    """An OrderedDict or a Counter of a file: a dict; attributes that a file sets on it are passed over."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Take the attributes (`_metadata` of a torch state dict) and do nothing with them."""


class Array(np.ndarray[Any, Any], metaclass=Sealed):
    """A numpy array of a file, filled by `__setstate__` with what has been checked."""

    def __setstate__(self, state: object) -> None:
        parts = state if isinstance(state, tuple) else ()
        if len(parts) == 5:
            parts = parts[1:]  # the first was the version of the layout
        if len(parts) != 4 or not isinstance(parts[1], Dtype):
            raise FormatError(
                "pickle: the state of an array must be (version, shape, dtype, order, bytes), got another"
            )
        shape, dtype, fortran = _shape(parts[0]), parts[1].numpy(), bool(parts[2])
        length = math.prod(shape) * dtype.itemsize
        raw = _raw(parts[3], length)
        if len(raw) != length:
            raise FormatError(f"pickle: an array of shape {shape} must have {length} bytes, got {len(raw)}")
        fill: Any = super().__setstate__  # its type in the stubs is not what numpy takes
        fill((1, shape, dtype, fortran, raw))


class Inert:
    """A thing that a file may name and pass on, and can do nothing else with."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise FormatError(f"pickle: {type(self).__name__} must not be given a state, got {type(state).__name__}")


class Here(Inert):
    """Stands in `extras` in the place of a state dict, whose tensors are a reader's."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<the model's tensors>"


HERE = Here()


class Dtype(Inert):
    """A numpy type: i4, i8, f4 or f8, with its byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: object) -> None:
        text = _raw(code).decode("latin1") if isinstance(code, str | bytes) else repr(code)
        if text.lstrip("<>=|") not in ("i4", "i8", "f4", "f8"):
            raise FormatError(f"pickle: the type of an array must be i4, i8, f4 or f8, got {text!r}")
        self.code = text.lstrip("<>=|")
        self.order = text[0] if text[0] in "<>" else "<"

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if order not in ("<", ">", "=", "|"):
            raise FormatError(f"pickle: the byte order of a type must be '<' or '>', got {order!r}")
        self.order = ">" if order == ">" else "<"

    def numpy(self) -> np.dtype[Any]:
        """Return the dtype that it stands for."""
        return np.dtype(self.order + self.code)


class Function(Inert):
    """A function of ours in the place of the one that the file names."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self.call = call

    def __call__(self, *args: object) -> object:
        return self.call(*args)


class Name(Inert):
    """A torch type: which numbers it stands for."""

    __slots__ = ("code",)

    def __init__(self, code: str) -> None:
        self.code = code

    def numpy(self) -> np.dtype[Any]:
        """Return the dtype that it stands for."""
        if "float" not in self.code:
            return np.dtype("<" + self.code)
        try:
            import ml_dtypes
        except ImportError as error:
            raise FormatError(
                f"pickle: {self.code} tensors must have ml_dtypes, got none; pip install ml_dtypes"
            ) from error
        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, self.code))
        return found


class Storage(Inert):
    """Numbers of one type in a row, as the tensors of the file see them."""

    __slots__ = ("data",)

    def __init__(self, data: np.ndarray[Any, Any]) -> None:
        self.data = data

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a number."""
        found: np.dtype[Any] = self.data.dtype
        return found

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return len(self.data)

    def viewed(self, dtype: np.dtype[Any]) -> "Storage":
        """Return the same bytes as numbers of another type."""
        return Storage(self.data.view(dtype))

    def tensor(self, shape: tuple[int, ...], strides: tuple[int, ...], first: int) -> object:
        """Return a tensor on these numbers, its strides in bytes, whose first number is `first`."""
        return np.lib.stride_tricks.as_strided(self.data[first:], shape, strides)


class Stored(Inert):
    """A tensor that stays in its file, and where it lies there.

    Attributes:
        key: the storage that it stands on, by its name in the file.
        start: the byte of the file at which its first number lies.
        strides: in bytes.
        big: whether its numbers are big-endian.
    """

    __slots__ = ("big", "dtype", "key", "shape", "start", "strides")

    def __init__(
        self, key: str, start: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any], big: bool
    ) -> None:
        self.key, self.start, self.shape, self.strides, self.dtype, self.big = key, start, shape, strides, dtype, big

    def __repr__(self) -> str:
        return f"<Stored {self.dtype} {list(self.shape)}>"


class Extent(Storage):
    """A storage that stays in its file."""

    __slots__ = ("_count", "_dtype", "big", "key", "start")

    def __init__(self, key: str, start: int, dtype: np.dtype[Any], count: int, big: bool) -> None:
        self.key, self.start, self.big = key, start, big
        self._dtype, self._count = dtype, count

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a number."""
        return self._dtype

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return self._count

    def viewed(self, dtype: np.dtype[Any]) -> "Extent":
        """Return the same bytes as numbers of another type."""
        return Extent(self.key, self.start, dtype, self.count * self.dtype.itemsize // dtype.itemsize, self.big)

    def tensor(self, shape: tuple[int, ...], strides: tuple[int, ...], first: int) -> Stored:
        """Return where a tensor on these numbers lies."""
        return Stored(self.key, self.start + first * self.dtype.itemsize, shape, strides, self.dtype, self.big)


def _raw(value: object, length: int | None = None) -> bytes:
    """Return the bytes of a Python 2 string, however it was decoded: only one of the two ways gives the length."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise FormatError(f"pickle: raw data must be bytes, got {type(value).__name__}")
    for codec, errors in (("utf-8", "surrogateescape"), ("latin1", "strict")):
        try:
            found = value.encode(codec, errors)
        except UnicodeEncodeError:
            continue
        if length is None or len(found) == length:
            return found
    raise FormatError(f"pickle: raw data must be {length} bytes, got {len(value)} characters")


def size_of(value: object) -> int:
    """Return a size that a pickle names. Raises FormatError for what can be none."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise FormatError(f"pickle: a size must be a whole number of 0 or more, got {value!r:.40}")
    return value


def _shape(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > 32:
        raise FormatError(f"pickle: a shape must be a tuple of at most 32 sizes, got {type(value).__name__}")
    return tuple(size_of(size) for size in value)


def _encode(text: object, codec: object = None) -> bytes:
    name = _raw(codec).decode("latin1") if isinstance(codec, str | bytes) else None
    if not isinstance(text, str) or name not in ("latin1", "latin-1"):
        raise FormatError(f"pickle: _codecs.encode must be from text to latin1, got {name!r}")
    try:
        return text.encode("latin1")
    except UnicodeEncodeError as error:
        raise FormatError("pickle: _codecs.encode must have characters below U+0100, got others") from error


def _new_array(*_: object) -> Array:
    return np.empty(0, np.float32).view(Array)


def _scalar(dtype: object, raw: object = b"") -> int | float:
    if not isinstance(dtype, Dtype):
        raise FormatError(f"pickle: a numpy number must have a type, got {type(dtype).__name__}")
    data = _raw(raw, dtype.numpy().itemsize)
    if len(data) != dtype.numpy().itemsize:
        raise FormatError(f"pickle: a number of type {dtype.numpy()} must have as many bytes, got {len(data)}")
    number: int | float = np.frombuffer(data, dtype.numpy())[0].item()
    return number


def _tensor(storage: object, offset: object, size: object, stride: object, *_: object) -> object:
    """Return the tensor on a storage that `torch._utils._rebuild_tensor` describes, checked to lie inside it."""
    if not isinstance(storage, Storage):
        raise FormatError(f"pickle: a tensor must stand on a storage, got {type(storage).__name__}")
    shape, strides, first = _shape(size), _shape(stride), size_of(offset)
    if len(shape) != len(strides):
        raise FormatError(f"pickle: a tensor must have a stride for each axis, got {shape} and {strides}")
    numel, width = storage.count, storage.dtype.itemsize
    if 0 in shape:
        return storage.tensor(shape, (0,) * len(shape), 0)
    last = first + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if last >= numel or math.prod(shape) > max(numel, _MAX_EXPANDED):
        raise FormatError(f"pickle: a tensor must lie in its storage of {numel} numbers, got shape {shape} at {first}")
    return storage.tensor(shape, tuple(s * width for s in strides), first)


def _tensor_v3(storage: object, offset: object, size: object, stride: object, *more: object) -> object:
    dtype = more[2] if len(more) > 2 else None
    if not isinstance(storage, Storage) or not isinstance(dtype, Name):
        raise FormatError("pickle: a tensor must have a storage and a type, got another")
    return _tensor(storage.viewed(dtype.numpy()), offset, size, stride)


def _parameter(data: object, *_: object) -> object:
    return data


_STORAGES = {"Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": "bfloat16", "Long": "i8", "Int": "i4"} | {
    "Short": "i2", "Char": "i1", "Byte": "u1", "Bool": "?", "Untyped": "u1",
}  # fmt: skip
_TYPES = {"float64": "f8", "float32": "f4", "float16": "f2", "int64": "i8", "int32": "i4", "int16": "i2"} | {
    "int8": "i1", "uint64": "u8", "uint32": "u4", "uint16": "u2", "uint8": "u1", "bool": "?",
    **{name: name for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")},
}  # fmt: skip
ARRAY_TYPE = Name("ndarray")
#: (module, name) as the file has them -> what stands there instead.
KNOWN: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): PlainDict,
    ("collections", "Counter"): PlainDict,
    ("_codecs", "encode"): Function(_encode),
    ("numpy", "ndarray"): ARRAY_TYPE,
    ("numpy", "dtype"): Function(lambda code=None, *_: Dtype(code)),
    ("torch._utils", "_rebuild_tensor"): Function(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Function(_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): Function(_tensor_v3),
    ("torch._utils", "_rebuild_parameter"): Function(_parameter),
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    KNOWN[_module, "_reconstruct"] = Function(_new_array)
    KNOWN[_module, "scalar"] = Function(_scalar)
for _kind, _code in _STORAGES.items():
    KNOWN["torch", f"{_kind}Storage"] = KNOWN["torch.storage", f"{_kind}Storage"] = Name(_code)
for _kind, _code in _TYPES.items():
    KNOWN["torch", _kind] = Name(_code)
