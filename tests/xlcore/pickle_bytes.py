"""Pickles and torch files written opcode by opcode, for the tests of their reader."""

import io
import pickle
import struct
import zipfile

import numpy as np

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001


def short(text: str) -> bytes:
    """Return the opcode that pushes a text."""
    return b"\x8c" + bytes([len(text.encode())]) + text.encode()


def name(module: str, attribute: str) -> bytes:
    """Return the opcodes that push a global, as protocol 2 writes it."""
    return f"c{module}\n{attribute}\n".encode()


def storage(kind: str, key: str, count: int) -> bytes:
    """Return the opcodes that push a torch storage."""
    return (
        b"("
        + short("storage")
        + name("torch", kind)
        + short(key)
        + short("cpu")
        + b"J"
        + struct.pack("<i", count)
        + b"tQ"
    )


def numbers(*values: int) -> bytes:
    """Return the opcodes that push a tuple of integers."""
    return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"


def tensor(kind: str, key: str, count: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """Return the opcodes that rebuild a torch tensor."""
    body = storage(kind, key, count) + b"K" + bytes([offset]) + numbers(*size) + numbers(*stride) + b"\x89" + b")"
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + body + b"tR"


def stream(body: bytes, storages: dict[str, np.ndarray], version: int = VERSION) -> bytes:
    """Return a torch stream with one object and its storages."""
    heads = [pickle.dumps(value, 2) for value in (MAGIC, version, {"little_endian": True})]
    keys = pickle.dumps(list(storages), 2)
    raw = b"".join(struct.pack("<q", array.size) + array.tobytes() for array in storages.values())
    return b"".join(heads) + b"\x80\x02" + body + b"." + keys + raw


def archive(body: bytes, storages: dict[str, np.ndarray], **extra: bytes) -> bytes:
    """Return a torch zip with one object and its storages."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr("model/data.pkl", b"\x80\x02" + body + b".")
        for key, array in storages.items():
            written.writestr(f"model/data/{key}", array.tobytes())
        for key, value in extra.items():
            written.writestr(f"model/{key}", value)
    return file.getvalue()
