"""The pickle inside a torch file, written opcode by opcode: the same bytes for the same things, and no torch."""

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from conversion.formats.base import Entry
from xlcore.errors import FormatError
from xlcore.inert import HERE
from xlcore.pickles import Placeholder

#: dtype -> the storage class that torch has for it, or torch's name of it where it has none.
CODES: dict[np.dtype[Any], str] = {
    np.dtype("float64"): "DoubleStorage",
    np.dtype("float32"): "FloatStorage",
    np.dtype("float16"): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype("int64"): "LongStorage",
    np.dtype("int32"): "IntStorage",
    np.dtype("int16"): "ShortStorage",
    np.dtype("int8"): "CharStorage",
    np.dtype("uint8"): "ByteStorage",
    np.dtype("bool"): "BoolStorage",
    np.dtype(ml_dtypes.float8_e4m3fn): "float8_e4m3fn",
    np.dtype(ml_dtypes.float8_e5m2): "float8_e5m2",
}
_START, _MARK, _STOP = b"\x80\x02", b"(", b"."
_DEEPEST = 64
_NUMBERS = tuple(map(np.dtype, ("float32", "float64", "int32", "int64")))  # those that a reader takes back


def pickled(entries: Sequence[Entry], shared: Mapping[str, str], extras: Mapping[str, Any]) -> bytes:
    """Return the pickle of a state dict whose storages are called 0, 1, 2, ... in the order of the entries.

    Args:
        shared: further names for some of the entries.
        extras: what stands beside the state dict, and where in it that stands; see `torch_files.Writer`.
    """
    keys = {entry.name: (str(key), entry) for key, entry in enumerate(entries)}
    tensors = {name: _tensor(*place) for name, place in keys.items()}
    tensors |= {tied: tensors[first] for tied, first in shared.items()}
    places = [key for key, value in extras.items() if value is HERE]
    if not places:
        rest = {key: _value(value, key) for key, value in extras.items()}
        return _START + _ordered({**tensors, **rest}) + _STOP
    states = _dealt(tensors, places)
    held = [
        (_value(key, "extras"), states[key] if value is HERE else _value(value, key)) for key, value in extras.items()
    ]
    return _START + b"}" + _MARK + b"".join(part for pair in held for part in pair) + b"u" + _STOP


def _dealt(tensors: Mapping[str, bytes], places: Sequence[str]) -> dict[str, bytes]:
    """Return the state dict for each place: all tensors, or those whose name begins with the place's."""
    if len(places) == 1:
        return {places[0]: _ordered(tensors)}
    states: dict[str, dict[str, bytes]] = {place: {} for place in places}
    for name, tensor in tensors.items():
        place, _, rest = name.partition(".")
        if place not in states:
            raise FormatError(f"torch: {name!r} must begin with one of {', '.join(places)}, got another beginning")
        states[place][rest] = tensor
    return {place: _ordered(state) for place, state in states.items()}


def _ordered(parts: Mapping[str, bytes]) -> bytes:
    """Return the opcodes of an OrderedDict, as the state dicts of torch are."""
    items = b"".join(_text(key) + value for key, value in parts.items())
    return _name("collections", "OrderedDict") + b")R" + (_MARK + items + b"u" if parts else b"")


def _tensor(key: str, entry: Entry) -> bytes:
    """Return the opcodes that have torch make a tensor on a storage of its own."""
    kind = CODES[entry.dtype]
    count = math.prod(entry.shape)
    strides = [math.prod(entry.shape[axis + 1 :]) for axis in range(len(entry.shape))]
    known = kind.endswith("Storage")
    storage = ("torch", kind) if known else ("torch.storage", "UntypedStorage")
    held = [_text("storage"), _name(*storage), _text(key), _text("cpu"), _whole(count if known else entry.nbytes)]
    body = [_tuple(held) + b"Q", _whole(0), _tuple(map(_whole, entry.shape)), _tuple(map(_whole, strides)), b"\x89"]
    body += [_name("collections", "OrderedDict") + b")R"]  # hooks, of which there are none
    body += [] if known else [_name("torch", kind)]
    return _name("torch._utils", "_rebuild_tensor_v2" if known else "_rebuild_tensor_v3") + _tuple(body) + b"R"


def _value(value: Any, where: str, depth: int = 0) -> bytes:
    """Return the opcodes of a plain value, of an array, or of an inert `argparse.Namespace` of them."""
    if depth > _DEEPEST:
        raise FormatError(f"torch: extras must be at most {_DEEPEST} deep, got more in {where!r}")
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return _whole(value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return _text(value)
    inner = depth + 1
    if isinstance(value, tuple):
        return _tuple(_value(each, where, inner) for each in value)
    if isinstance(value, list):
        return b"]" + _MARK + b"".join(_value(each, where, inner) for each in value) + b"e"
    if isinstance(value, dict):
        pairs = (_value(key, where, inner) + _value(each, where, inner) for key, each in value.items())
        return b"}" + _MARK + b"".join(pairs) + b"u"
    if isinstance(value, Placeholder) and (value.module, value.name) == ("argparse", "Namespace"):
        return _name("argparse", "Namespace") + b")\x81" + _value(value.attributes, where, inner) + b"b"
    if isinstance(value, np.ndarray) and value.dtype.newbyteorder("=") in _NUMBERS:
        return _array(value)
    told = repr(value) if isinstance(value, Placeholder) else type(value).__name__
    raise FormatError(
        f"torch: extras must be plain values, arrays of numbers, or a Namespace of them, got {told} in {where!r}"
    )


def _array(array: np.ndarray[Any, Any]) -> bytes:
    """Return the opcodes of an array of numpy, as numpy's own pickles have them since its first versions."""
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
    code, raw = plain.dtype.str[1:], plain.tobytes()
    made = [_name("numpy", "ndarray"), _tuple([_whole(0)]), _text("b")]
    dtype = _name("numpy", "dtype") + _tuple([_text(code), b"\x89", b"\x88"]) + b"R"
    dtype += _tuple([_whole(3), _text("<"), b"N", b"N", b"N", _whole(-1), _whole(-1), _whole(0)]) + b"b"
    numbers = _name("_codecs", "encode") + _tuple([_text(raw.decode("latin1")), _text("latin1")]) + b"R"
    state = [_whole(1), _tuple(map(_whole, plain.shape)), dtype, b"\x89", numbers]
    return _name("numpy.core.multiarray", "_reconstruct") + _tuple(made) + b"R" + _tuple(state) + b"b"


def _whole(number: int) -> bytes:
    if 0 <= number < 1 << 8:
        return b"K" + struct.pack("<B", number)
    if -(1 << 31) <= number < 1 << 31:
        return b"J" + struct.pack("<i", number)
    raw = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    if len(raw) > 0xFF:
        raise FormatError(f"torch: a whole number must have at most 255 bytes, got {len(raw)}")
    return b"\x8a" + struct.pack("<B", len(raw)) + raw


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def _name(module: str, name: str) -> bytes:
    return b"c" + f"{module}\n{name}\n".encode()


def _tuple(parts: Iterable[bytes]) -> bytes:
    return _MARK + b"".join(parts) + b"t"
