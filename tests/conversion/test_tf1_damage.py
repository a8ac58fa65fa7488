"""Indexes that lie and files that are damaged: only FormatError comes out, soon, and in little memory."""

import re
import shutil
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from fuzz import damaged, survive
from hypothesis import given, settings
from hypothesis import strategies as st
from table_bytes import EMPTY_BLOCK, index_folder, shape_field

from conversion.formats import bundle, tf1
from conversion.formats.base import Entry
from conversion.formats.bundle import slice_key
from conversion.formats.sstable import masked, read_table, sum_of, write_table
from xlcore import FormatError
from xlcore.protobuf import bytes_field, fixed_field, number_field, varint

ORIGINAL = Path(__file__).parents[1] / "golden" / "original" / "transfo_xl_tf1-wt103_base"
Extents = tuple[tuple[int, int], ...]
WHOLE = -1


def record(kind: int = 1, shape: tuple[int, ...] = (), shard: int = 0, offset: int = 0, size: int = 4) -> bytes:
    """Return a record whose checksum is that of so many zeros."""
    places = number_field(3, shard) + number_field(4, offset) + number_field(5, size)
    return number_field(1, kind) + shape_field(*shape) + places + fixed_field(6, masked(sum_of(bytes(min(size, 999)))))


def read_all(path: Path) -> dict[str, np.ndarray]:
    reader = tf1.Reader(path)
    return {name: reader.read(name) for name in reader}


def refused(path: Path) -> str:
    """Return what is told of a checkpoint, without where it lies."""
    with pytest.raises(FormatError) as told:
        read_all(path)
    return str(told.value).replace(f"{path}/", "")


# ----------------------------------------------------------------------------------------------------------- records


def test_a_record_laid_out_by_hand_is_read(tmp_path):
    assert read_all(index_folder(tmp_path, {b"x": record(shape=(2, 3), size=24)}, bytes(24)))["x"].shape == (2, 3)


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ({b"x": record(shape=(2,))}, "model.ckpt.index: 'x': a record of shape [2] must have 8 bytes, got 4"),
        (
            {b"x": record(shape=(2**40,), size=4)},
            f"model.ckpt.index: 'x': a record of shape [{2**40}] must have {2**42}",
        ),
        ({b"x": record(shape=(2**64 - 1,))}, "model.ckpt.index: 'x': must have a shape that memory can hold, got ["),
        (
            {b"x": record(shape=(0, 2**62), size=0)},
            "model.ckpt.index: 'x': must have a shape that memory can hold, got [",
        ),
        ({b"x": record(shape=(1,) * 65)}, "model.ckpt.index: 'x': field 2 must come at most 64 times, got more"),
        (
            {b"x": bytes_field(2, number_field(3, 1))},
            "model.ckpt.index: 'x': must have a type that TensorFlow has, got",
        ),
        (
            {b"x": number_field(1, 1) + bytes_field(2, number_field(3, 1)) + number_field(5, 4)},
            "model.ckpt.index: 'x': must have a shape that memory can hold, got none",
        ),
        ({b"x": record(kind=0)}, "model.ckpt.index: 'x': must have a type that TensorFlow has, got number 0"),
        ({b"x": record(kind=101)}, "model.ckpt.index: 'x': must have a type that TensorFlow has, got number 101"),
        ({b"x": record(shard=1)}, "model.ckpt.index: 'x': must lie in one of 1 shards, got number 1"),
        ({b"x": record(shard=2**64 - 1)}, "model.ckpt.index: 'x': must lie in one of 1 shards, got number"),
        (
            {b"x": record(offset=61)},
            "model.ckpt.data-00000-of-00001: bytes 61 to 65 must be there, got a file of 64; is",
        ),
        (
            {b"x": record(offset=2**64 - 1)},
            "model.ckpt.data-00000-of-00001: bytes 18446744073709551615 to 184467440737",
        ),
        (
            {b"x": record(), b"y": record(offset=3)},
            "model.ckpt.index: tensors must lie beside each other, got two that share byte 3",
        ),
        (
            {b"x": record(), b"y": record()},
            "model.ckpt.index: tensors must lie beside each other, got two that share by",
        ),
        ({b"\xff\xfe": record()}, "model.ckpt.index: a name must be text in UTF-8, got '\\\\xff\\\\xfe'"),
        ({b"\0x": record()}, "model.ckpt.index: '\\x00x' must be a slice of a variable, got one of none"),
        ({b"x": b"\xff"}, "model.ckpt.index: 'x': a number of at most 64 bits must stand at byte 0, got one that does"),
        ({b"x": bytes_field(1, b"")}, "model.ckpt.index: 'x': field 1 must hold int, got wire type 2"),
    ],
)
def test_a_record_that_lies_is_refused(tmp_path, records, told):
    assert refused(index_folder(tmp_path, records, bytes(64))).startswith(told)


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (b"", "its header must tell 1 to 99999 shards and an order of bytes, 0 or 1, got 0 and 0"),
        (
            number_field(1, 100_000),
            "its header must tell 1 to 99999 shards and an order of bytes, 0 or 1, got 100000 and 0",
        ),
        (
            number_field(1, 1) + number_field(2, 2),
            "its header must tell 1 to 99999 shards and an order of bytes, 0 or 1, got 1",
        ),
        (
            number_field(1, 1) + bytes_field(3, number_field(2, 2)),
            "its header must be for readers of version 1, got one for version 2 and later",
        ),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, header, told):
    assert refused(index_folder(tmp_path, {b"x": record()}, bytes(4), header)).startswith(f"model.ckpt.index: {told}")


def test_an_index_without_header_is_refused(tmp_path):
    folder = index_folder(tmp_path, {}, b"")
    (folder / "model.ckpt.index").write_bytes(write_table([(b"x", record())]))
    assert refused(folder) == "model.ckpt.index: an index must begin with its header, got none"


def test_an_index_of_gigabytes_is_not_read(tmp_path):
    folder = index_folder(tmp_path, {}, b"")
    content = (folder / "model.ckpt.index").read_bytes()
    with (folder / "model.ckpt.index").open("rb+") as stream:
        stream.truncate(5 << 30)
        stream.seek(-len(content), 2)
        stream.write(content)
    assert refused(folder) == "model.ckpt.index: an index must have at most 16777216 bytes, got 5368709120; is it one?"


def test_a_missing_shard_is_named(tmp_path):
    folder = index_folder(tmp_path, {b"x": record(shard=6)}, bytes(4), number_field(1, 12))
    assert refused(folder) == "model.ckpt.data-00006-of-00012: must be there, as its index says, got no such file"


def test_only_shards_that_hold_something_need_be_there(tmp_path):
    folder = index_folder(tmp_path, {b"x": record(shape=(0,), shard=6, size=0)}, b"", number_field(1, 12))
    assert read_all(folder)["x"].shape == (0,)


def test_a_file_that_is_cut_off_after_it_was_opened_is_refused(tmp_path):
    folder = index_folder(tmp_path, {b"x": record(shape=(4,), size=16)}, bytes(16))
    reader = tf1.Reader(folder)
    (folder / "model.ckpt.data-00000-of-00001").write_bytes(bytes(15))
    with pytest.raises(FormatError, match=r"00001: must hold all its tensors, got 1 bytes too few; is it cut off\?$"):
        reader.read("x")


@pytest.mark.parametrize("place", [0, 17, 31_983])
def test_one_damaged_bit_of_the_data_is_noticed_in_its_tensor_and_in_no_other(tmp_path, place):
    folder = Path(shutil.copytree(ORIGINAL, tmp_path / "copy"))
    data = bytearray((folder / "model.ckpt.data-00000-of-00001").read_bytes())
    data[place] ^= 0x10
    (folder / "model.ckpt.data-00000-of-00001").write_bytes(data)
    reader, damaged = tf1.Reader(folder), []
    for name in reader:
        with suppress(FormatError):
            reader.read(name)
            continue
        damaged.append(name)
    assert len(damaged) == 1
    told = (
        f"{folder}/model.ckpt.data-00000-of-00001: {damaged[0]!r} must match its checksum, got other bytes; is the file"
    )
    with pytest.raises(FormatError, match=re.escape(told)):
        reader.read(damaged[0])


# ------------------------------------------------------------------------------------------------------------ slices


def slices_field(*slices: Extents) -> bytes:
    """Return the slices that a record lists."""
    return b"".join(
        bytes_field(7, b"".join(bytes_field(1, number_field(1, start) + length_field(size)) for start, size in extents))
        for extents in slices
    )


def length_field(size: int) -> bytes:
    return b"" if size == WHOLE else varint(2 << 3) + varint(size)


def sliced(*slices: Extents, shape: tuple[int, ...] = (4, 2), kind: int = 1) -> dict[bytes, bytes]:
    """Return the records of a variable `w` in slices, each of them as it should be."""
    records, offset = {b"w": number_field(1, kind) + shape_field(*shape) + slices_field(*slices)}, 0
    for extents in slices:
        own = tuple(axis if size == WHOLE else size for axis, (_, size) in zip(shape, extents, strict=False))
        size = 4 * int(np.prod(own))
        records[slice_key(b"w", extents)] = record(shape=own, offset=offset, size=size)
        offset += size
    return records


def rows(*spans: tuple[int, int]) -> tuple[Extents, ...]:
    return tuple((span, (0, WHOLE)) for span in spans)


HALVES = rows((0, 2), (2, 2))


@pytest.mark.parametrize(
    "slices",
    [
        HALVES,
        HALVES[::-1],
        rows((0, 4)),
        rows((0, WHOLE)),
        rows((0, 1), (1, 0), (1, 3)),
        (((0, 4), (0, 1)), ((0, WHOLE), (1, 1))),
    ],
)
def test_slices_laid_out_by_hand_are_put_together(tmp_path, slices):
    reader = tf1.Reader(index_folder(tmp_path, sliced(*slices), bytes(64)))
    assert list(reader) == ["w"]
    assert reader["w"] == Entry("w", (4, 2), np.dtype("float32"))
    assert np.array_equal(reader.read("w"), np.zeros((4, 2)))


def test_a_scalar_of_one_slice_is_read(tmp_path):
    assert read_all(index_folder(tmp_path, sliced((), shape=()), bytes(4)))["w"] == 0


@pytest.mark.parametrize(
    ("records", "told"),
    [
        (sliced(*rows((0, 2), (2, 1))), "slices must cover 4 of axis 0, got 3"),
        (sliced(*rows((0, 2), (3, 1))), "slices must follow one another, got ((3, 1), (0, -1)) where 2 are covered"),
        (sliced(*rows((0, 3), (2, 2))), "slices must follow one another, got ((2, 2), (0, -1)) where 3 are covered"),
        (sliced(*rows((0, 2), (2, 3))), "slices must cover 4 of axis 0, got 5"),
        (sliced(*rows((1, WHOLE))), "slices must follow one another, got ((1, -1), (0, -1)) where 0 are covered"),
        (
            sliced(((0, 2), (0, 1)), ((0, 2), (1, 1))),
            "must be cut along one axis, got slices [((0, 2), (0, 1)), ((0, 2), ",
        ),
        (
            sliced(*rows((0, 4), (0, WHOLE))),
            "must be cut along one axis, got slices [((0, -1), (0, -1)), ((0, 4), (0, -1))]",
        ),
        (sliced(((0, 2),), ((2, 2),)), "a slice must have 2 axes, got 1"),
        (
            sliced(*HALVES) | {slice_key(b"w", HALVES[1]): record(shape=(2, 3), size=24)},
            "its slice ((2, 2), (0, -1)) must",
        ),
        (
            sliced(*HALVES) | {slice_key(b"w", HALVES[1]): record(3, (2, 2), size=16)},
            "its slice ((2, 2), (0, -1)) must be",
        ),
        (
            sliced(*HALVES) | {b"w": record(shape=(4, 2)) + slices_field(*HALVES)},
            "a record of shape [4, 2] must have 0 by",
        ),
        (sliced(*HALVES, kind=7), "a variable cut into slices must hold numbers, got string"),
        (
            sliced(*HALVES) | {b"w": number_field(1, 1) + slices_field(*HALVES * 2)},
            "field 7 must come at most 3 times, got m",
        ),
    ],
)
def test_slices_that_lie_are_refused(tmp_path, records, told):
    assert refused(index_folder(tmp_path, records, bytes(64))).startswith(f"model.ckpt.index: 'w': {told}")


def test_a_slice_that_is_not_there_is_named(tmp_path):
    records = sliced(*HALVES)
    del records[slice_key(b"w", HALVES[1])]
    told = "model.ckpt.index: 'w': its slice ((2, 2), (0, -1)) must be there as 1 of shape (2, 2), got none"
    assert refused(index_folder(tmp_path, records | {b"x": record(offset=60)}, bytes(64))) == told


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_keys_of_slices_sort_as_their_numbers_do(one, other):
    keys = [slice_key(b"w", ((number, WHOLE),)) for number in (one, other)]
    assert (keys[0] < keys[1]) == (one < other)
    assert (keys[0] == keys[1]) == (one == other)


# -------------------------------------------------------------------------------------------------------------- fuzz


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A checkpoint with all that one can have, small; made anew for each case."""
    records = sliced(*HALVES)
    records |= {b"x": record(shape=(3,), offset=32, size=12), b"y": record(9, (), offset=44, size=8)}
    words = varint(2) + masked(sum_of((2).to_bytes(4, "little"))).to_bytes(4, "little") + b"hi"
    crc = masked(sum_of(words[1:], sum_of((2).to_bytes(4, "little"))))
    records[b"z"] = number_field(1, 7) + shape_field() + number_field(4, 52) + number_field(5, 7) + fixed_field(6, crc)
    folder = index_folder(tmp_path_factory.mktemp("fuzz"), records, bytes(52) + words)
    assert sorted(read_all(folder)) == ["w", "x", "y"]
    assert tf1.Reader(folder).extras["z"].data == words
    return folder


def survives(folder: Path, index: bytes | None = None, data: bytes | None = None) -> bool:
    """Tell whether a checkpoint with other bytes is read; whatever is wrong with it comes out as FormatError."""
    where = folder / "model.ckpt"
    kept = [(Path(f"{where}{end}"), Path(f"{where}{end}").read_bytes()) for end in (".index", ".data-00000-of-00001")]
    told = None
    try:
        for (file, before), content in zip(kept, (index, data), strict=True):
            file.write_bytes(before if content is None else content)
        read_all(where)
    except FormatError as error:
        told = str(error)
    finally:
        for file, before in kept:
            file.write_bytes(before)
    assert told is None or str(folder) in told
    return told is None


ways = st.sampled_from(["flip", "set", "cut", "insert", "double"])
edits = st.lists(st.tuples(st.integers(0, 10**6), ways, st.integers(0, 255)), min_size=1, max_size=4)


def edited(content: bytes, changes: list[tuple[int, str, int]]) -> bytes:
    """Damage bytes: other bits, other bytes, a piece gone, bytes put in, a piece twice."""
    out = bytearray(content)
    for where, how, value in changes:
        place = where % (len(out) + 1)
        if how == "flip":
            out[place : place + 1] = bytes([out[place] ^ 1 << value % 8]) if place < len(out) else b""
        elif how == "set":
            out[place : place + 1] = bytes([value])
        elif how == "cut":
            del out[place : place + 1 + value % 16]
        elif how == "insert":
            out[place:place] = bytes([255]) * (value % 11)
        else:
            out[place:place] = out[place : place + value % 40]
    return bytes(out)


@settings(max_examples=300, deadline=2000)
@given(edits)
def test_a_damaged_index_is_refused_or_read(copy, changes):
    survives(copy, index=edited((copy / "model.ckpt.index").read_bytes(), changes))


@settings(max_examples=600, deadline=2000)
@given(st.integers(0, 10**6), st.booleans(), edits)
def test_a_damaged_record_under_right_checksums_is_refused_or_read(copy, which, key, changes):
    """What no checksum catches: the index is sealed anew around the damage."""
    records = list(read_table((copy / "model.ckpt.index").read_bytes(), "", 1 << 20))
    which %= len(records)
    pair = list(records[which])
    pair[not key] = edited(pair[not key], changes)
    records[which] = tuple(pair)
    survives(copy, index=write_table(sorted(dict(records).items())))


@settings(max_examples=200, deadline=2000)
@given(edits)
def test_damaged_data_is_refused(copy, changes):
    before = (copy / "model.ckpt.data-00000-of-00001").read_bytes()
    after = edited(before, changes)
    assert survives(copy, data=after) == (after[: len(before)] == before)


def test_damage_does_nothing_but_be_refused_where_memory_and_time_are_short(copy, tmp_path):
    index, data = ((copy / f"model.ckpt{end}").read_bytes() for end in (".index", ".data-00000-of-00001"))
    records = sorted(read_table(index, "", 1 << 20))
    cases = [(each, data) for each in damaged(index, 150)] + [(index, each) for each in damaged(data, 50)]
    for number in range(300):
        key, value = records[number % len(records)]
        worse = next(damaged(value, 1, seed=number))
        cases.append((write_table(sorted({**dict(records), key: worse}.items())), data))  # sealed around the damage
    for number, (one, other) in enumerate(cases):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "model.ckpt.index").write_bytes(one)
        (tmp_path / str(number) / "model.ckpt.data-00000-of-00001").write_bytes(other)
    told = survive("conversion.formats.tf1:Reader", [tmp_path / str(number) for number in range(len(cases))], tmp_path)
    assert len(set(told)) > 200


def test_every_bit_of_the_index_counts(copy):
    """All but those of a block that is always empty, of where it lies, and of the footer's padding."""
    before, kept = (copy / "model.ckpt.index").read_bytes(), []
    for place in range(len(before)):
        kept += [place] if survives(copy, index=edited(before, [(place, "flip", place)])) else []
    empty = before.index(EMPTY_BLOCK)
    assert kept[:13] == list(range(empty, empty + 13))
    assert all(len(before) - 48 <= place < len(before) - 8 for place in kept[13:])


# ------------------------------------------------------------------------------------------------- memory stays small


def test_claims_do_not_take_memory(tmp_path):
    """Whatever shapes, sizes and counts are claimed, nothing is set aside before the file is known to hold it."""
    claims = [
        {b"x": record(shape=(2**50,), size=2**52)},
        {b"x": record(7, (2**40,), size=8)},
        {b"x": record(7, (2**40,), size=2**50)},
        {b"x": record(shape=(2**30,), size=0) + slices_field(((0, 2**30),))},
        sliced(((0, 2**30),), shape=(2**30,)),
        {b"x": number_field(1, 1) + bytes_field(2, bytes_field(2, b"") * 500_000)},
        {b"x": record(shape=(4,), size=0) + slices_field(((0, 4),)) * 500_000},
    ]
    for number, records in enumerate(claims):
        folder = index_folder(tmp_path / str(number), records, bytes(64))
        size = (folder / "model.ckpt.index").stat().st_size
        tracemalloc.start()
        refused(folder)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4_000_000 + 8 * size, (number, peak)


def test_the_largest_index_that_is_read_takes_bounded_memory(tmp_path, monkeypatch):
    """More records than there may be are refused while they are read; the bound is an eighth here, to be quick."""
    monkeypatch.setattr(bundle, "_MOST_UNPACKED", bundle._MOST_UNPACKED // 8)
    plain = number_field(1, 1) + bytes_field(2, bytes_field(2, b""))
    folder = index_folder(tmp_path, {f"{number:06d}".encode(): plain for number in range(33_000)}, b"")
    tracemalloc.start()
    told = refused(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert told == "model.ckpt.index: the table must unpack to fewer bytes, got more than any genuine one"
    assert peak < 150_000_000 // 8


# ------------------------------------------------------------------------------------------------------- bad plans


X = Entry("x", (2,), np.dtype("float32"))


@pytest.mark.parametrize(
    ("entries", "options", "told"),
    [
        ([X, X], {}, "model.ckpt: names must be different, got 1 that stand twice"),
        (
            [X],
            {"extras": {"x": tf1.Other("string", (), b"\0\0\0\0", 0)}},
            "model.ckpt: names must be different, got 1 that",
        ),
        ([Entry("", (2,), X.dtype)], {}, "'': a name in a TensorFlow checkpoint must begin with a character, got none"),
        (
            [Entry("\0x", (2,), X.dtype)],
            {},
            "'\\x00x': a name in a TensorFlow checkpoint must begin with a character, got n",
        ),
        (
            [Entry("\udc80", (2,), X.dtype)],
            {},
            "'\\udc80': a name in a TensorFlow checkpoint must be text, got surrogates no",
        ),
        (
            [Entry("x", (2,), np.dtype("datetime64[s]"))],
            {},
            "x: must have a dtype that TensorFlow has, float32, float64, int32",
        ),
        (
            [X],
            {"extras": {"args": {"lr": 1}}},
            "args: an extra of a TensorFlow checkpoint must be one of its own kind, whole",
        ),
        (
            [X],
            {"shared": {"y": "x"}},
            "model.ckpt: every tensor must have bytes of its own, got 'y' shared; give it as an",
        ),
        ([X], {"name": "../x"}, "'../x': a checkpoint's prefix must be letters, digits, '.', '_' and '-', got others"),
        (
            [X],
            {"name": ".hidden"},
            "'.hidden': a checkpoint's prefix must be letters, digits, '.', '_' and '-', got others",
        ),
    ],
)
def test_what_no_checkpoint_can_hold_is_refused_before_anything_is_written(entries, options, told):
    with pytest.raises(FormatError) as error:
        tf1.Writer(entries, **options)
    assert str(error.value).startswith(told)


def test_more_shards_than_the_names_can_count_are_refused(monkeypatch):
    monkeypatch.setattr(tf1, "MOST_SHARDS", 2)
    entries = [Entry(name, (2,), X.dtype) for name in "abc"]
    assert len(tf1.Writer(entries, max_bytes=16).files) == 2
    with pytest.raises(FormatError) as error:
        tf1.Writer(entries, max_bytes=8)
    assert str(error.value) == "max_bytes: must leave at most 2 files, got 8, which makes 3"
