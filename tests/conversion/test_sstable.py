"""Sorted tables and the messages in them: written and read back, compressed ones too, and refused when they lie."""

import re
from contextlib import suppress
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_bytes import block_of, closed, sealed, table_of

from conversion.formats.sstable import MAGIC, read_table, unpack_snappy, write_table
from xlcore import FormatError
from xlcore.protobuf import bytes_field, fixed_field, number_field, read_message, read_varint, varint

ROOM = 1 << 26


def read(data: bytes, most: int = ROOM) -> list[tuple[bytes, bytes]]:
    return list(read_table(data, "t", most))


# ----------------------------------------------------------------------------------------------------------- tables


@given(st.dictionaries(st.binary(max_size=12), st.binary(max_size=40), max_size=60))
def test_what_is_written_is_read(records):
    ordered = sorted(records.items())
    assert read(write_table(ordered)) == ordered


def test_a_large_table_has_many_blocks_and_short_keys_between_them():
    records = [(f"a/long/name/of/a/variable/{number:06d}".encode(), b"v" * 90) for number in range(9000)]
    written = write_table(records)
    assert read(written) == records
    assert len(written) > 3 << 18
    assert len(written) < sum(len(value) + 10 for _, value in records)  # keys share their beginnings


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_table_is_refused(data):
    """Any byte of it: a checksum stands over all but the footer, and padding in it."""
    whole = write_table([(f"name{number}".encode(), bytes([number] * 9)) for number in range(40)])
    place = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[place] ^= data.draw(st.integers(1, 255))
    try:
        assert read(bytes(flipped)) == read(whole)
    except FormatError:
        return
    assert len(whole) - 48 <= place < len(whole) - 8


@given(st.integers(0, 400))
def test_a_table_cut_off_is_refused(length):
    whole = write_table([(f"name{number}".encode(), bytes([number] * 9)) for number in range(40)])
    with pytest.raises(FormatError, match=r"^t: must end as a table does, got \d+ bytes that do not; is the file cut"):
        read(whole[:length])


GOOD = block_of((b"a", b"1"), (b"b", b"2"))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (table_of(GOOD, block_of((b"b", b"3"))), r"t: keys must be in order, got b'b' after b'b'"),
        (table_of(block_of((b"b", b""), (b"a", b""))), r"t: keys must be in order, got b'a' after b'b'"),
        (table_of(GOOD, kind=2), r"t: a block must be plain or compressed by snappy, got kind 2"),
        (table_of(b"abc"), r"t: a block must hold its \d+ restart points, got 3 bytes"),
        (table_of(b"\xff\xff\xff\x00"), r"t: a block must hold its 16777215 restart points, got 4 bytes"),
        (table_of(b"\x01\x01\x00a" + GOOD[-8:]), r"t: a record must lie within its block, got 1, 1 and 0 bytes"),
        (table_of(b"\x00\x09\x00a" + GOOD[-8:]), r"t: a record must lie within its block, got 0, 9 and 0 bytes"),
        (table_of(b"\x00\x01\x7fa" + GOOD[-8:]), r"t: a record must lie within its block, got 0, 1 and 127 bytes"),
        (table_of(b"\xff" * 20 + GOOD[-8:]), r"t: a number of at most 64 bits must stand at byte 0, got .*"),
        (
            closed(sealed(GOOD), block_of((b"a", varint(0) + varint(2**40)))),
            r"t: a block must lie within .*, got 0 to .*",
        ),
        (closed(sealed(GOOD), block_of((b"a", b"\0"))), r"t: a number of at most 64 bits must stand at byte 1, got .*"),
        (
            closed(sealed(GOOD), block_of(*[(key, varint(0) + varint(len(GOOD))) for key in (b"b", b"c")])),
            r"t: blocks must lie one after the other, got one at 0, within another",
        ),
        (bytes(40) + MAGIC, r"t: a block must lie within the file's 48 bytes, got 0 to 5"),
    ],
    ids=count(),
)
def test_a_lying_table_is_refused(data, told):
    with pytest.raises(FormatError) as refused:
        read(data)
    assert re.fullmatch(told, str(refused.value))


def test_an_index_that_points_at_itself_ends():
    """The index is no block of records with handles behind handles: what it points to is read once, as records."""
    size = len(block_of((b"a", varint(0) + varint(16))))
    index = block_of((b"a", varint(0) + varint(size)))
    assert len(index) == size
    assert read(closed(b"", index)) == [(b"a", varint(0) + varint(size))]


def test_many_long_keys_that_share_their_bytes_are_refused_before_they_fill_memory():
    long = b"k" * 60_000
    body = varint(0) + varint(len(long)) + varint(0) + long
    for _ in range(60_000):
        body += varint(len(long)) + varint(1) + varint(0) + b"k"
        long += b"k"
    data = table_of(body + bytes(4) + (1).to_bytes(4, "little"))
    assert len(data) < 1 << 20
    with pytest.raises(FormatError, match=r"^t: the table must unpack to fewer bytes, got more than any genuine one$"):
        read(data)


# ----------------------------------------------------------------------------------------------------------- snappy


def literals(data: bytes, step: int = 60) -> bytes:
    """Compress by not compressing: literals only."""
    pieces = (data[start : start + step] for start in range(0, len(data), step))
    return varint(len(data)) + b"".join(bytes([len(piece) - 1 << 2]) + piece for piece in pieces)


@pytest.mark.parametrize(
    ("packed", "plain"),
    [
        (b"\x00", b""),
        (literals(b"abc"), b"abc"),
        (varint(70) + bytes([60 << 2, 69]) + b"x" * 70, b"x" * 70),  # a length in a byte of its own
        (varint(300) + bytes([61 << 2]) + (299).to_bytes(2, "little") + b"y" * 300, b"y" * 300),
        (varint(9) + b"\x08abc" + bytes([2 << 2 | 1, 3]), b"abcabcabc"),  # runs on into what it writes
        (varint(8) + b"\x08abc" + bytes([4 << 2 | 2, 3, 0]), b"abcabcab"),
        (varint(8) + b"\x08abc" + bytes([4 << 2 | 3, 2, 0, 0, 0]), b"abcbcbcb"),
        (
            varint(1004) + literals(bytes(250) * 4, 50)[2:] + bytes([3 << 5 | 1, 0xE8]),
            bytes(1004),
        ),  # 3 << 8 | 0xE8 back
    ],
)
def test_snappy_is_undone(packed, plain):
    assert unpack_snappy(packed, "t", ROOM) == plain


@pytest.mark.parametrize(
    "packed",
    [
        varint(4) + b"\x08abc",
        varint(2) + b"\x08abc",
        varint(3) + b"\x08ab",
        varint(3),
        varint(2**40) + b"\x08abc",
        varint(2**63) + b"\xfc\xff\xff\xff\xff",
        b"",
        b"\xff",
    ],
)
def test_snappy_that_lies_about_its_size_is_refused(packed):
    with pytest.raises(
        FormatError, match=r"^t: (snappy must unpack to the \d+ bytes that it says|a number of at most)"
    ):
        unpack_snappy(packed, "t", ROOM)


@pytest.mark.parametrize(
    "packed",
    [varint(9) + b"\x08abc\x09", varint(9) + b"\x08abc\x09\x04", varint(9) + b"\x08abc\x09\x00", b"\x09\x09\x01"],
)
def test_snappy_that_copies_from_nowhere_is_refused(packed):
    with pytest.raises(FormatError, match=r"^t: snappy must copy from what it has unpacked, got \d of \d bytes back$"):
        unpack_snappy(packed, "t", ROOM)


@given(st.binary(max_size=60))
def test_whatever_claims_to_be_snappy_unpacks_or_is_refused(packed):
    with suppress(FormatError):
        assert len(unpack_snappy(packed, "t", 4096)) <= 4096


def test_a_compressed_table_is_read():
    packed = literals(block_of((b"a", b"1"), (b"b", b"2")))
    assert read(table_of(packed, kind=1)) == [(b"a", b"1"), (b"b", b"2")]


# --------------------------------------------------------------------------------------------------------- messages


@given(st.integers(0, 2**64 - 1))
def test_numbers_of_64_bits_survive(value):
    assert read_varint(b"?" + varint(value) + b"!", 1, "t") == (value, 1 + len(varint(value)))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 9, b"\xff" * 9 + b"\x02", b"\x80" * 10 + b"\x01"])
def test_a_number_that_ends_nowhere_or_takes_more_bits_is_refused(data):
    with pytest.raises(
        FormatError, match=r"^t: a number of at most 64 bits must stand at byte 0, got one that does not"
    ):
        read_varint(data, 0, "t")


def test_a_message_gives_its_known_fields():
    data = number_field(1, 5) + bytes_field(2, b"x") + number_field(1, 300) + fixed_field(6, 7) + bytes_field(9, b"?")
    data += varint(10 << 3 | 1) + bytes(8)
    assert read_message(data, "t", {1: int, 2: bytes, 3: bytes, 6: int}) == {1: [5, 300], 2: [b"x"], 3: [], 6: [7]}
    assert number_field(1, 0) == fixed_field(6, 0) == b""


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (number_field(2, 1), "t: field 2 must hold bytes, got wire type 0"),
        (bytes_field(1, b""), "t: field 1 must hold int, got wire type 2"),
        (b"\x0b", "t: a field must have wire type 0, 1, 2 or 5, got 3"),
        (b"\x12\x05ab", "t: a field of 5 bytes must lie within its message, got 2 bytes"),
        (b"\x0d\x05ab", "t: a field of 4 bytes must lie within its message, got 3 bytes"),
        (number_field(1, 1) * 4, "t: field 1 must come at most 3 times, got more"),
    ],
)
def test_a_lying_message_is_refused(data, told):
    with pytest.raises(FormatError) as refused:
        read_message(data, "t", {1: int, 2: bytes}, most=3)
    assert str(refused.value) == told
