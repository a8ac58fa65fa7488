"""The safetensors format: written tensor by tensor, read lazily, never believed."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from filled import ARRAYS as KINDS
from filled import BFLOAT16, assert_holds, entries_of, fill
from fuzz import damaged, survive
from safetensors import safe_open

from conversion.formats.safetensors import DTYPES, INDEX, OURS, WEIGHTS, Entry, Reader, Writer, shards, write
from xlcore import FormatError

RNG = np.random.default_rng(0)
ARRAYS = {
    "a.weight": RNG.standard_normal((3, 4)).astype("float32"),
    "a.bias": RNG.standard_normal(3).astype("float16"),
    "b.weight": RNG.standard_normal((5, 2)).astype(ml_dtypes.bfloat16),
    "c": np.arange(6, dtype="int64").reshape(1, 6),
    "empty": np.zeros((0, 4), "float32"),
}


def write_arrays(folder, arrays, max_bytes=10**9):
    folder.mkdir(exist_ok=True)
    entries = [Entry(name, array.shape, array.dtype) for name, array in arrays.items()]
    write(folder, entries, {name: lambda array=array: array for name, array in arrays.items()}, max_bytes)
    return folder


def raw_file(header, data: bytes = b"") -> bytes:
    """Lay out a safetensors file by hand, whatever the header claims."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


# --------------------------------------------------------------------------------------------------------- writing


def test_what_is_written_is_read_bit_by_bit(tmp_path):
    reader = Reader(write_arrays(tmp_path, ARRAYS))
    assert set(reader) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert reader[name] == Entry(name, array.shape, array.dtype)
        assert reader.read(name).dtype == array.dtype
        assert reader.read(name).tobytes() == array.tobytes()
    assert "a.weight" in reader
    assert "nothing" not in reader


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_dtype_comes_back(tmp_path, dtype):
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    reader = Reader(write_arrays(tmp_path, {"x": array}))
    assert reader.read("x").dtype == dtype
    assert reader.read("x").tobytes() == array.tobytes()


def test_the_library_of_the_format_opens_what_is_written(tmp_path):
    arrays = {name: array for name, array in ARRAYS.items() if array.dtype != ml_dtypes.bfloat16}
    file = write_arrays(tmp_path, arrays) / WEIGHTS
    with safe_open(file, "numpy") as opened:
        assert opened.metadata() == {"format": "pt"}
    theirs = safetensors.numpy.load_file(file)
    assert theirs.keys() == arrays.keys()
    assert all(np.array_equal(theirs[name], array) for name, array in arrays.items())


def test_what_the_library_writes_is_read(tmp_path):
    safetensors.numpy.save_file({"x": ARRAYS["a.weight"]}, tmp_path / WEIGHTS)
    assert np.array_equal(Reader(tmp_path).read("x"), ARRAYS["a.weight"])


def test_the_data_starts_at_a_multiple_of_eight(tmp_path):
    for length in range(1, 9):
        content = (write_arrays(tmp_path, {"n" * length: np.ones(2, "float32")}) / WEIGHTS).read_bytes()
        (header,) = struct.unpack("<Q", content[:8])
        assert header % 8 == 0
        assert content[8 + header :] == np.ones(2, "float32").tobytes()


def test_arrays_are_written_in_the_dtype_of_their_entry_whatever_their_layout(tmp_path):
    array = np.asfortranarray(RNG.standard_normal((3, 4)))
    write(tmp_path, [Entry("x", (4, 3), np.dtype("float32"))], {"x": lambda: array.T}, 10**9)
    assert np.array_equal(Reader(tmp_path).read("x"), array.T.astype("float32"))


def test_an_array_of_another_shape_than_its_entry_is_refused(tmp_path):
    with pytest.raises(FormatError, match=r"^safetensors: 'x' must have shape \(2, 3\), got \(3, 2\)$"):
        write(tmp_path, [Entry("x", (2, 3), np.dtype("float32"))], {"x": lambda: np.ones((3, 2))}, 10**9)


def test_arrays_are_asked_for_once_each_in_the_order_of_the_entries(tmp_path):
    asked = []
    entries = [Entry(name, array.shape, array.dtype) for name, array in ARRAYS.items()]
    read = {name: lambda name=name, array=array: asked.append(name) or array for name, array in ARRAYS.items()}
    write(tmp_path, entries, read, 50)
    assert asked == list(ARRAYS)


# ---------------------------------------------------------------------------------------------------------- shards


def sized(*sizes):
    return [Entry(str(number), (size,), np.dtype("uint8")) for number, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "most", "dealt"),
    [
        ((4, 4, 4), 100, [[4, 4, 4]]),
        ((4, 4, 4), 8, [[4, 4], [4]]),
        ((4, 4, 4), 7, [[4], [4], [4]]),
        ((4, 99, 4), 8, [[4], [99], [4]]),
        ((99,), 1, [[99]]),
        ((), 8, [[]]),
    ],
)
def test_tensors_are_dealt_out_in_order(sizes, most, dealt):
    assert [[entry.nbytes for entry in shard] for shard in shards(sized(*sizes), most)] == dealt


def test_shards_have_an_index_and_are_read_as_one(tmp_path):
    write_arrays(tmp_path, ARRAYS, max_bytes=60)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                     "model-00003-of-00003.safetensors", INDEX]  # fmt: skip
    assert all(OURS.fullmatch(file) for file in files)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in ARRAYS.values())
    assert index["weight_map"].keys() == ARRAYS.keys()
    reader = Reader(tmp_path)
    assert all(reader.read(name).tobytes() == array.tobytes() for name, array in ARRAYS.items())


def test_only_our_own_files_count_as_ours():
    assert OURS.fullmatch(WEIGHTS)
    for other in ("pytorch_model.bin", "model.safetensors.bak", "my_model.safetensors", "modelxsafetensors"):
        assert not OURS.fullmatch(other)


# ------------------------------------------------------------------------------------------------------ bad folders


def test_a_folder_without_weights_is_refused_with_what_it_holds(tmp_path):
    with pytest.raises(FormatError, match=r"must hold model\.safetensors or .*index\.json, got an empty folder$"):
        Reader(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(FormatError, match=r"got pytorch_model\.bin$"):
        Reader(tmp_path)
    with pytest.raises(FormatError, match=r"got no such folder$"):
        Reader(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        raw_file(b""),
        raw_file(b"{"),
        raw_file(b"[1]"),
        raw_file(b'{"x": 3}'),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10**8) + b"{}",
        raw_file({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
        raw_file({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 7),
        raw_file({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 9),
        raw_file({"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, b"\0" * 8),
        raw_file({"x": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, b"\0" * 8),
        raw_file({"x": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, b"\0" * 8),
        raw_file({"x": {"dtype": "F32", "shape": [10**12, 10**12], "data_offsets": [0, 8]}}, b"\0" * 8),
        raw_file({"x": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 2**64 - 1]}}, b"\0" * 8),
        raw_file({"x": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8),
        raw_file(
            {
                "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "y": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
            },
            b"\0" * 12,
        ),
    ],
    ids=[
        "empty", "short", "no header", "broken header", "list", "number", "endless header", "long header", "no data",
        "less data", "more data", "wrong shape", "backwards", "negative", "huge shape", "huge offset", "unknown dtype",
        "overlap",
    ],
)  # fmt: skip
def test_a_damaged_or_lying_file_is_refused_by_name(tmp_path, content):
    file = tmp_path / WEIGHTS
    file.write_bytes(content)
    with pytest.raises(FormatError) as refused:
        Reader(tmp_path)
    assert str(refused.value).startswith(f"{file}: must be a whole safetensors file, got: ")


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    content = (write_arrays(tmp_path, ARRAYS) / WEIGHTS).read_bytes()
    for length in (*range(0, len(content), 37), len(content) - 1):
        (tmp_path / WEIGHTS).write_bytes(content[:length])
        with pytest.raises(FormatError, match="must be a whole safetensors file"):
            Reader(tmp_path)


def test_a_dtype_that_numpy_cannot_hold_is_refused_with_the_tensors_name(tmp_path):
    header = {"x": {"dtype": "F8_E8M0", "shape": [8], "data_offsets": [0, 8]}}
    (tmp_path / WEIGHTS).write_bytes(raw_file(header, b"\0" * 8))
    with pytest.raises(FormatError, match=r"'x' must have a dtype among F64, F32, F16, BF16, .*, got F8_E8M0$"):
        Reader(tmp_path)


def write_index(folder, weight_map):
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("file", ["../other.safetensors", "/etc/passwd", "sub/model.safetensors", "a/../b", "./x"])
def test_an_index_cannot_name_a_file_outside_its_folder(tmp_path, file):
    inner = tmp_path / "inner"
    write_arrays(inner, {"x": np.ones(2, "float32")})
    (inner / WEIGHTS).rename(tmp_path / "other.safetensors")
    write_index(inner, {"x": file})
    with pytest.raises(FormatError) as refused:
        Reader(inner)
    assert str(refused.value) == f"{inner / INDEX}: weight_map must name files of the same folder, got {file!r}"


@pytest.mark.parametrize("file", ["..", ".", "", "a\0b"])
def test_an_index_cannot_name_what_is_no_file(tmp_path, file):
    write_index(tmp_path, {"x": file})
    with pytest.raises(FormatError, match=str(tmp_path)):
        Reader(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    write_arrays(tmp_path, ARRAYS, max_bytes=60)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FormatError, match=r"model-00002-of-00003\.safetensors: must be there, as its index says"):
        Reader(tmp_path)


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path):
    write_arrays(tmp_path, {"x": np.ones(2, "float32")})
    (tmp_path / WEIGHTS).rename(tmp_path / "model-00001-of-00001.safetensors")
    write_index(tmp_path, {"x": "model-00001-of-00001.safetensors", "gone": "model-00001-of-00001.safetensors"})
    with pytest.raises(FormatError, match=r"model-00001-of-00001\.safetensors: .*gone"):
        Reader(tmp_path)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"x": 1}}', '{"weight_map": null}']
)
def test_a_broken_index_is_refused_by_name(tmp_path, content):
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(FormatError) as refused:
        Reader(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path / INDEX}: ")


def test_reading_is_lazy_and_sees_a_file_that_vanishes(tmp_path):
    reader = Reader(write_arrays(tmp_path, ARRAYS))
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(FormatError, match=r"model\.safetensors: must be there"):
        reader.read("c")


# ------------------------------------------------------------------------------------------------------ the interface


def test_a_file_or_an_index_may_be_given_directly_or_have_another_name(tmp_path):
    write_arrays(tmp_path, ARRAYS)
    (tmp_path / WEIGHTS).rename(tmp_path / "other.safetensors")
    for path in (tmp_path, tmp_path / "other.safetensors"):
        assert_holds(Reader(path), ARRAYS)
        assert Reader(path).files == (tmp_path / "other.safetensors",)
    (tmp_path / "more.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes())
    with pytest.raises(
        FormatError, match=r"must hold one checkpoint, got more\.safetensors, other\.safetensors; give the"
    ):
        Reader(tmp_path)
    fill(Writer(entries_of(ARRAYS), max_bytes=60, name="pytorch_model.safetensors"), tmp_path / "shards", ARRAYS)
    for path in (tmp_path / "shards", tmp_path / "shards" / "pytorch_model.safetensors.index.json"):
        assert_holds(Reader(path), ARRAYS)
        assert [file.name for file in Reader(path).files] == ["pytorch_model.safetensors.index.json"] + [
            f"pytorch_model-{number:05d}-of-00003.safetensors" for number in range(1, 4)
        ]


def test_a_plan_is_filled_from_any_end_and_is_the_same_each_time(tmp_path):
    arrays = KINDS | BFLOAT16
    for most in (0, 60):
        one, other = (fill(Writer(entries_of(arrays), max_bytes=most), tmp_path / f"{most}{x}", arrays) for x in "ab")
        assert one == other
        assert_holds(Reader(tmp_path / f"{most}a"), arrays)


def test_what_write_writes_is_what_the_plan_says(tmp_path):
    for most in (60, 10**9):
        planned = fill(Writer(entries_of(ARRAYS), max_bytes=most), tmp_path / f"plan{most}", ARRAYS)
        folder = write_arrays(tmp_path / f"write{most}", ARRAYS, most)
        assert planned == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_metadata_comes_along(tmp_path):
    fill(Writer(entries_of(KINDS), extras={"format": "tf", "more": "x"}), tmp_path, KINDS)
    assert Reader(tmp_path).extras == {"format": "tf", "more": "x"}
    with safe_open(tmp_path / WEIGHTS, "numpy") as opened:
        assert opened.metadata() == {"format": "tf", "more": "x"}


def test_what_cannot_be_written_is_refused():
    with pytest.raises(FormatError, match=r"^safetensors: extras must be texts, got another value for 'a'$"):
        Writer([], extras={"a": 1})
    with pytest.raises(FormatError, match=r"^safetensors: 'x' must have a dtype among float64, .*, got complex128$"):
        Writer([Entry("x", (1,), np.dtype("complex128"))])
    with pytest.raises(
        FormatError, match=r"^safetensors: every tensor must have bytes of its own, got 'b' shared; give it"
    ):
        Writer([], shared={"b": "a"})


def test_a_name_that_stands_twice_is_refused(tmp_path):
    one = b'"x": {"dtype": "U8", "shape": [1], "data_offsets": [%d, %d]}'
    (tmp_path / WEIGHTS).write_bytes(raw_file(b"{" + one % (0, 1) + b"," + one % (1, 2) + b"}", b"ab"))
    with pytest.raises(FormatError, match=r"must be a whole safetensors file, got: "):
        Reader(tmp_path)
    write_arrays(tmp_path / "two", ARRAYS, max_bytes=60)
    first, second = sorted((tmp_path / "two").glob("*.safetensors"))[:2]
    second.write_bytes(first.read_bytes())
    (tmp_path / "two" / INDEX).write_text(json.dumps({"weight_map": {"a.weight": first.name, "c": second.name}}))
    with pytest.raises(FormatError, match=rf"{second.name}: must hold 'c', as its index says, got a file without it$"):
        Reader(tmp_path / "two")


def test_a_name_in_two_shards_is_refused(tmp_path):
    write_arrays(tmp_path, ARRAYS, max_bytes=60)
    first, second = sorted(tmp_path.glob("*.safetensors"))[:2]
    second.write_bytes(first.read_bytes())
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a.weight": first.name, "a.bias": second.name}}))
    with pytest.raises(
        FormatError, match=rf"{second.name}: 'a\.weight' must lie in one file, got it in {first.name}, too$"
    ):
        Reader(tmp_path)


def test_tensors_that_the_index_leaves_out_are_read_too(tmp_path):
    write_arrays(tmp_path, ARRAYS, max_bytes=60)
    names = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    held = [next(iter(Reader(tmp_path / name))) for name in names]
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": dict(zip(held, names, strict=True))}))
    assert_holds(Reader(tmp_path), ARRAYS)


def test_a_file_that_is_cut_off_later_is_told(tmp_path):
    reader = Reader(write_arrays(tmp_path, ARRAYS))
    content = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(content[:-10])
    with pytest.raises(FormatError, match=r"must hold all its tensors, got 10 bytes too few; is it cut off\?$"):
        reader.read("c")
    (tmp_path / WEIGHTS).unlink()
    (tmp_path / WEIGHTS).mkdir()
    with pytest.raises(FormatError, match=r"model\.safetensors: must be readable, got Is a directory$"):
        reader.read("c")


def test_sizes_are_counted_without_end():
    assert Entry("x", (1 << 62, 1 << 62), np.dtype("float32")).nbytes == 1 << 126
    assert Entry("x", (), np.dtype("float64")).nbytes == 8


def test_damaged_files_raise_format_errors_only(tmp_path):
    content = (write_arrays(tmp_path / "good", ARRAYS) / WEIGHTS).read_bytes()
    paths = []
    for number, each in enumerate(damaged(content, 300)):
        paths.append(tmp_path / f"{number}.safetensors")
        paths[-1].write_bytes(each)
    told = survive("conversion.formats.safetensors:Reader", paths, tmp_path)
    assert 10 < told.count("read") < 290
