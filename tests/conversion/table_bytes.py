"""Tables and indexes of checkpoints laid out by hand, so that they can hold whatever is wrong and still be sealed."""

from collections.abc import Mapping
from pathlib import Path

from conversion.formats.bundle import HEADER
from conversion.formats.sstable import MAGIC, masked, sum_of, write_table
from xlcore.protobuf import bytes_field, number_field, varint

EMPTY_BLOCK = bytes([0, 0, 0, 0, 1, 0, 0, 0, 0, 0xC0, 0xF2, 0xA1, 0xB0])  # as TensorFlow writes it, sealed
ONE_SHARD = number_field(1, 1) + bytes_field(3, number_field(1, 1))


def table_of(*blocks: bytes, kind: int = 0, key: bytes = b"") -> bytes:
    """Lay out a table of blocks as they stand, with right checksums and an index in which each has its key."""
    out, handles = b"", []
    for block in blocks:
        handles.append(varint(len(out)) + varint(len(block)))
        out += sealed(block, kind)
    index = block_of(*((key + bytes([number]), handle) for number, handle in enumerate(handles)))
    return closed(out, index)


def sealed(block: bytes, kind: int = 0) -> bytes:
    """Append what follows a block: how it is compressed, and its checksum."""
    return block + bytes([kind]) + masked(sum_of(block + bytes([kind]))).to_bytes(4, "little")


def closed(out: bytes, index: bytes) -> bytes:
    """End a table: its index, and the footer that tells where that lies."""
    footer = varint(0) + varint(0) + varint(len(out)) + varint(len(index))
    return out + sealed(index) + footer.ljust(40, b"\0") + MAGIC


def block_of(*records: tuple[bytes, bytes]) -> bytes:
    """Lay out records as a block, each key in full."""
    body = b"".join(varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in records)
    return body + bytes(4) + (1).to_bytes(4, "little")


def shape_field(*shape: int) -> bytes:
    """Return the shape of a record."""
    return bytes_field(2, b"".join(bytes_field(2, number_field(1, size)) for size in shape))


def index_folder(folder: Path, records: Mapping[bytes, bytes], data: bytes, header: bytes = ONE_SHARD) -> Path:
    """Lay out a checkpoint of records as they stand."""
    folder.mkdir(exist_ok=True)
    (folder / "model.ckpt.data-00000-of-00001").write_bytes(data)
    (folder / "model.ckpt.index").write_bytes(write_table(sorted({HEADER: header, **records}.items())))
    return folder
