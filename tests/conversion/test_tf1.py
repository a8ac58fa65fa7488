"""TensorFlow's checkpoints, read and written without it; TensorFlow itself is the judge where it is installed."""

import shutil
from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_bytes import EMPTY_BLOCK, index_folder, shape_field, table_of

from conversion.formats import tf1
from conversion.formats.base import Entry, Writer
from conversion.formats.bundle import DTYPES, HEADER
from conversion.formats.sstable import masked, read_table, sum_of, write_table
from xlcore import FormatError
from xlcore.protobuf import bytes_field, fixed_field, number_field, varint

GOLDEN = sorted((Path(__file__).parents[1] / "golden" / "original").glob("*_tf1-*"))
SMALL = next(folder for folder in GOLDEN if folder.name == "transfo_xl_tf1-wt103_base")
RNG = np.random.default_rng(0)
FLOATS = np.dtype("float32")
ARRAYS = {
    "model/layer_0/kernel": RNG.standard_normal((3, 4)).astype("float32"),
    "model/layer_0/bias": RNG.standard_normal(4).astype("float16"),
    "model/table": RNG.standard_normal((5, 2)).astype(ml_dtypes.bfloat16),
    "global_step": np.array(7, "int64"),
    "none": np.zeros((0, 4), "float32"),
    "mask": np.array([True, False, True]),
}


def bits(array: np.ndarray) -> tuple:
    """Return what two arrays share if they are the same to the bit."""
    return array.shape, array.dtype, array.tobytes()


def entries_of(arrays: dict[str, np.ndarray]) -> list[Entry]:
    return [Entry(name, array.shape, array.dtype) for name, array in arrays.items()]


def fill(writer: Writer, arrays: dict[str, np.ndarray], folder: Path) -> Path:
    """Write arrays into the places of a plan, as the engine does."""
    folder.mkdir(exist_ok=True)
    writer.begin(folder)
    sums = {}
    for name, place in writer.places.items():
        with (folder / place.file).open("rb+") as stream:
            stream.seek(place.offset)
            stream.write(arrays[name].tobytes())
        sums[name] = writer.sum(arrays[name].tobytes(), 0)
    writer.end(folder, sums)
    return folder


def write(folder: Path, arrays: dict[str, np.ndarray], **options) -> Path:
    return fill(tf1.Writer(entries_of(arrays), **options), arrays, folder)


def read(path: Path) -> dict[str, np.ndarray]:
    reader = tf1.Reader(path)
    return {name: reader.read(name) for name in reader}


def assert_same(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert sorted(got) == sorted(wanted)
    for name in wanted:
        assert bits(got[name]) == bits(wanted[name]), name


# ----------------------------------------------------------------------------------------------------- the originals


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda folder: folder.name)
def test_an_original_lists_what_it_holds(folder):
    reader = tf1.Reader(folder)
    listed = [f"{name} {list(reader[name].shape)}" for name in reader]
    assert listed == (folder / "variables.txt").read_text().splitlines()
    assert len(reader) == len(listed) > 20
    assert listed[0].split()[0] in reader
    assert "nowhere" not in reader
    assert {file.suffix for file in reader.files} == {".index", ".data-00000-of-00001"}
    assert reader.extras == {}


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda folder: folder.name)
def test_an_original_is_written_again_byte_by_byte(folder, tmp_path):
    reader = tf1.Reader(folder)
    written = write(tmp_path / "again", read(folder), name=reader.files[0].stem)
    for file in reader.files:
        assert (written / file.name).read_bytes() == file.read_bytes(), file.name
    if (folder / "checkpoint").exists():
        assert (written / "checkpoint").read_text() == (folder / "checkpoint").read_text()


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda folder: folder.name)
def test_tensorflow_reads_the_same_from_an_original(folder):
    tf = pytest.importorskip("tensorflow")
    theirs = tf.train.load_checkpoint(str(tf1.prefix_of(folder)))
    assert_same(read(folder), {name: np.asarray(theirs.get_tensor(name)) for name in tf1.Reader(folder)})


# ------------------------------------------------------------------------------------------------- finding the files


@pytest.fixture
def moved(tmp_path) -> Path:
    return Path(shutil.copytree(SMALL, tmp_path / "moved"))


@pytest.mark.parametrize(
    "name", ["", "model.ckpt", "model.ckpt.index", "model.ckpt.data-00000-of-00001", "model.ckpt.meta", "checkpoint"]
)
def test_every_way_to_name_a_checkpoint_means_the_same(moved, name):
    (moved / "model.ckpt.meta").write_bytes(b"a graph that nobody reads")
    assert tf1.prefix_of(moved / name) == moved / "model.ckpt"
    assert len(tf1.Reader(moved / name)) == 30


def test_the_meta_file_need_not_be_there(moved):
    assert tf1.prefix_of(moved / "model.ckpt.meta") == moved / "model.ckpt"


def test_a_folder_without_state_must_hold_one_checkpoint(moved):
    (moved / "checkpoint").unlink()
    assert tf1.prefix_of(moved) == moved / "model.ckpt"
    (moved / "other.index").write_text("no table")
    assert tf1.prefix_of(moved) == moved / "model.ckpt"
    shutil.copy(moved / "model.ckpt.index", moved / "model.ckpt-9.index")
    with pytest.raises(FormatError) as refused:
        tf1.prefix_of(moved)
    told = "must hold one TensorFlow checkpoint, got model.ckpt, model.ckpt-9; give the prefix of one"
    assert str(refused.value) == f"{moved}: {told}"


@pytest.mark.parametrize(
    "state",
    [
        'model_checkpoint_path: "model.ckpt"',
        'all_model_checkpoint_paths: "a"\nmodel_checkpoint_path: "model.ckpt"\n',
        'model_checkpoint_path: "/where/it/was/trained/model.ckpt"',
        'model_checkpoint_path: "moved/model.ckpt"',
        'model_checkpoint_path: "../../elsewhere/model.ckpt"',
        "  model_checkpoint_path :'model.ckpt'  # by hand",
        'model_checkpoint_path: "mo\\144el\\.ckpt"',
    ],
)
def test_the_state_file_is_followed_wherever_the_folder_has_gone(moved, state):
    (moved / "checkpoint").write_text(state)
    shutil.copy(moved / "model.ckpt.index", moved / "another.index")
    assert tf1.prefix_of(moved) == moved / "model.ckpt"


def test_the_state_file_may_name_a_checkpoint_in_a_folder_below(moved):
    (moved / "step").mkdir()
    for file in moved.glob("model.ckpt.*"):
        file.rename(moved / "step" / file.name)
    (moved / "checkpoint").write_text('model_checkpoint_path: "step/model.ckpt"')
    assert tf1.prefix_of(moved) == moved / "step" / "model.ckpt"


@pytest.mark.parametrize(
    "named", ["gone", "../outside/model.ckpt", "/etc/hosts", "", "/", "..", "\\000", "a" * 300, "\\377"]
)
def test_a_state_file_that_names_nothing_here_is_refused(moved, named):
    outside = shutil.copytree(SMALL, moved.parent / "outside")
    (outside / "model.ckpt.index").rename(outside / "other.index")
    (moved / "model.ckpt.index").rename(moved / "kept.index")
    (moved / "checkpoint").write_text(f'model_checkpoint_path: "{named}"')
    with pytest.raises(FormatError) as refused:
        tf1.Reader(moved)
    start = f"{moved / 'checkpoint'}: model_checkpoint_path must be a checkpoint in this folder, got "
    long = f"{moved}: must be readable, got File name too long"
    assert str(refused.value).startswith((start, long))
    assert str(refused.value).endswith(("; checkpoints there: kept; give the prefix of one", long))


def test_a_state_file_cannot_lead_out_of_its_folder(moved):
    shutil.copytree(SMALL, moved.parent / "outside")
    (moved / "model.ckpt.index").unlink()
    (moved / "checkpoint").write_text('model_checkpoint_path: "../outside/model.ckpt"')
    with pytest.raises(FormatError, match=r"got '\.\./outside/model\.ckpt'; checkpoints there: none; give the prefix"):
        tf1.prefix_of(moved)


@pytest.mark.parametrize("content", [b"", b"model_checkpoint_path", b"\xff\xfe", b"model_checkpoint_path: 3\n"])
def test_a_state_file_without_a_path_is_refused(moved, content):
    (moved / "checkpoint").write_bytes(content)
    with pytest.raises(FormatError) as refused:
        tf1.prefix_of(moved)
    told = "must hold model_checkpoint_path, as TensorFlow writes it, got a file without it"
    assert str(refused.value) == f"{moved / 'checkpoint'}: {told}"


@pytest.mark.parametrize("name", ["model", "model.index", "model.meta", "model.data-00000-of-00001"])
def test_what_is_no_checkpoint_is_refused(tmp_path, name):
    (tmp_path / "model.data-00000-of-00001").write_bytes(bytes(64))
    with pytest.raises(FormatError) as refused:
        tf1.Reader(tmp_path / name)
    told = "must be the prefix of a TensorFlow checkpoint, got no model.index beside it"
    assert str(refused.value) == f"{tmp_path / 'model'}: {told}"


def test_a_checkpoint_of_the_first_version_is_told_apart(tmp_path):
    """One table that holds the data too; its header is a message within a message."""
    (tmp_path / "model").write_bytes(write_table([(HEADER, bytes_field(1, bytes(300))), (b"\0x", bytes(9))]))
    with pytest.raises(FormatError) as refused:
        tf1.Reader(tmp_path / "model")
    told = "must be a TensorFlow checkpoint of version 2, got one of version 1; load it in TensorFlow and save it with "
    assert str(refused.value) == f"{tmp_path / 'model'}: {told}tf.compat.v1.train.Saver, which writes version 2"


def test_tensorflows_first_version_is_told_apart(tmp_path):
    tf = pytest.importorskip("tensorflow")
    tf.raw_ops.Save(filename=str(tmp_path / "old"), tensor_names=["x"], data=[tf.ones((3, 4))])
    with pytest.raises(FormatError, match=r"old: must be a TensorFlow checkpoint of version 2, got one of version 1; "):
        tf1.Reader(tmp_path / "old")


def test_a_file_that_may_not_be_read_is_refused(moved, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(FormatError) as refused:
        tf1.Reader(moved)
    assert str(refused.value) == f"{moved}: must be readable, got Permission denied"


# ----------------------------------------------------------------------------------------------- written and read


def test_what_is_written_is_read(tmp_path):
    reader = tf1.Reader(write(tmp_path, ARRAYS))
    assert list(reader) == sorted(ARRAYS)
    assert reader["model/table"] == Entry("model/table", (5, 2), np.dtype(ml_dtypes.bfloat16))
    assert_same(read(tmp_path), ARRAYS)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "checkpoint", "model.ckpt.data-00000-of-00001", "model.ckpt.index",
    ]  # fmt: skip


def test_the_plan_is_the_same_whatever_the_order_and_closing_twice_changes_nothing(tmp_path):
    one, other = entries_of(ARRAYS), entries_of(ARRAYS)[::-1]
    assert tf1.Writer(one).places == tf1.Writer(other).places
    writer = tf1.Writer(one)
    folder = fill(writer, ARRAYS, tmp_path)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    writer.end(folder, {name: writer.sum(array.tobytes(), 0) for name, array in ARRAYS.items()})
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_plan_touches_no_disk_and_files_have_their_full_size_before_the_data(tmp_path):
    writer = tf1.Writer(entries_of(ARRAYS), max_bytes=40)
    assert list(tmp_path.iterdir()) == []
    writer.begin(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(writer.files)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == sum(array.nbytes for array in ARRAYS.values())


def test_the_sum_goes_on_from_piece_to_piece():
    data = RNG.bytes(3_000_001)
    assert tf1.Writer.sum(data[7:], tf1.Writer.sum(data[:7], 0)) == tf1.Writer.sum(memoryview(data), 0) == sum_of(data)
    assert tf1.Writer.sum(b"123456789", 0) == 0xE3069283  # RFC 3720, and every table of this checksum


@pytest.mark.parametrize("most", [1, 30, 48, 70])
def test_shards_hold_at_most_so_many_bytes_and_are_read_as_one(tmp_path, most):
    write(tmp_path, ARRAYS, max_bytes=most, name="large.ckpt-12")
    sizes = {file.name: file.stat().st_size for file in sorted(tmp_path.glob("*.data-*"))}
    assert list(sizes) == [f"large.ckpt-12.data-{n:05d}-of-{len(sizes):05d}" for n in range(len(sizes))]
    assert all(size <= max(most, 48) for size in sizes.values())
    assert len(sizes) > 1
    assert_same(read(tmp_path / "large.ckpt-12"), ARRAYS)


def test_no_tensors_are_a_checkpoint_too(tmp_path):
    write(tmp_path, {})
    assert read(tmp_path) == {}


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_dtype_survives_in_either_order_of_bytes(tmp_path, dtype):
    array = RNG.integers(0, 2, 6).reshape(2, 3).astype(dtype) * np.ones(1, dtype)
    little = write(tmp_path / "little", {"x": array})
    assert_same(read(little), {"x": array})
    turned = big_endian(little)
    assert_same(read(turned), {"x": array})
    tf = pytest.importorskip("tensorflow")
    for folder in (little, turned) if dtype.itemsize > 1 else (little,):
        theirs = tf.train.load_checkpoint(str(folder / "model.ckpt")).get_tensor("x")
        assert bits(np.asarray(theirs)) == bits(array)


def big_endian(folder: Path) -> Path:
    """Write a checkpoint anew as a machine with the other order of bytes has it; of one variable."""
    turned = shutil.copytree(folder, folder.parent / "big")
    reader = tf1.Reader(folder)
    (name,) = reader
    array = reader.read(name)
    width = array.itemsize // (2 if array.dtype.kind == "c" else 1)
    data = array.reshape(-1).view(f"u{width}").byteswap().tobytes()
    (turned / "model.ckpt.data-00000-of-00001").write_bytes(data)
    records = dict(read_table((folder / "model.ckpt.index").read_bytes(), "", 1 << 20))
    records[HEADER] = number_field(1, 1) + number_field(2, 1) + bytes_field(3, number_field(1, 1))
    records[name.encode()] = records[name.encode()][:-4] + masked(sum_of(data)).to_bytes(4, "little")
    (turned / "model.ckpt.index").write_bytes(write_table(sorted(records.items())))
    return turned


# ------------------------------------------------------------------------------------------------ held to TensorFlow

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(lambda name: name[0] != "\0")
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
kinds = st.sampled_from(["float32", "float64", "float16", ml_dtypes.bfloat16, "int32", "int64", "uint8", "bool"])


def array_of(shape: tuple[int, ...], kind: str) -> np.ndarray:
    return (RNG.standard_normal(shape) * 9).astype(kind)


def save(tf, prefix: Path, arrays: dict[str, np.ndarray], slices: list[str] | None = None) -> None:
    """Have TensorFlow write arrays as its savers do, in the order given."""
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(arrays),
        shape_and_slices=slices or [""] * len(arrays),
        tensors=[tf.constant(array) for array in arrays.values()],
    )


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(names, st.tuples(shapes, kinds), min_size=1, max_size=40))
def test_what_tensorflow_writes_is_read_and_written_again(tmp_path_factory, drawn):
    tf = pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("theirs")
    arrays = {name: array_of(*drawn[name]) for name in sorted(drawn)}
    save(tf, folder / "model.ckpt", arrays)
    assert_same(read(folder / "model.ckpt"), arrays)
    ours = write(tmp_path_factory.mktemp("ours"), arrays)
    for file in folder.iterdir():
        assert (ours / file.name).read_bytes() == file.read_bytes(), file.name


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(names, st.tuples(shapes, kinds), min_size=1, max_size=20), st.integers(1, 200))
def test_tensorflow_reads_what_is_written(tmp_path_factory, drawn, most):
    tf = pytest.importorskip("tensorflow")
    arrays = {name: array_of(*drawn[name]) for name in drawn}
    folder = write(tmp_path_factory.mktemp("ours"), arrays, max_bytes=most)
    theirs = tf.train.load_checkpoint(str(folder))
    assert {name: tuple(shape) for name, shape in tf.train.list_variables(str(folder))} == {
        name: array.shape for name, array in arrays.items()
    }
    assert_same({name: np.asarray(theirs.get_tensor(name)) for name in arrays}, arrays)


def test_the_order_that_tensors_were_written_in_does_not_matter(tmp_path):
    tf = pytest.importorskip("tensorflow")
    save(tf, tmp_path / "m", dict(reversed(ARRAYS.items())))
    assert_same(read(tmp_path), ARRAYS)


def test_an_index_of_many_blocks_is_tensorflows_byte_by_byte(tmp_path):
    tf = pytest.importorskip("tensorflow")
    arrays = {f"model/a_rather_long_scope/layer_{n % 97}/{n:05d}": np.array(n, "int32") for n in range(12_000)}
    arrays = dict(sorted(arrays.items()))
    save(tf, tmp_path / "model.ckpt", arrays)
    theirs = (tmp_path / "model.ckpt.index").read_bytes()
    assert len(theirs) > 1 << 18
    assert (write(tmp_path / "ours", arrays) / "model.ckpt.index").read_bytes() == theirs
    assert int(tf1.Reader(tmp_path / "model.ckpt").read("model/a_rather_long_scope/layer_3/00100")) == 100


def test_shards_that_tensorflow_merged_are_read(tmp_path):
    tf = pytest.importorskip("tensorflow")
    half = len(ARRAYS) // 2
    for part, items in (("a", list(ARRAYS.items())[:half]), ("b", list(ARRAYS.items())[half:])):
        save(tf, tmp_path / part, dict(items))
    parts = [str(tmp_path / part) for part in "ab"]
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(tmp_path / "all"))
    assert len(list(tmp_path.glob("all.data-*-of-00002"))) == 2
    assert_same(read(tmp_path / "all"), ARRAYS)


def test_the_state_that_tensorflow_writes_is_followed(tmp_path):
    tf = pytest.importorskip("tensorflow")
    for name in ("plain", 'quote"and\\slash', "Übergröße-变", "it's"):
        save(tf, tmp_path / name, ARRAYS)
        for path in (name, str(tmp_path / name)):
            tf.compat.v1.train.update_checkpoint_state(str(tmp_path), path)
            assert tf1.prefix_of(tmp_path) == tmp_path / name


def test_a_savers_own_checkpoint_is_read(tmp_path):
    """As the originals made theirs: a graph, a session, an optimizer with its slots."""
    tf = pytest.importorskip("tensorflow")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        weight = tf.compat.v1.get_variable("w", initializer=ARRAYS["model/layer_0/kernel"])
        tf.compat.v1.train.AdamOptimizer().minimize(tf.reduce_sum(weight**2))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(tmp_path / "model.ckpt"), global_step=3)
    arrays = read(tmp_path)
    assert sorted(arrays) == ["beta1_power", "beta2_power", "w", "w/Adam", "w/Adam_1"]
    assert bits(arrays["w"]) == bits(ARRAYS["model/layer_0/kernel"])
    assert tf1.prefix_of(tmp_path).name == "model.ckpt-3"


def test_a_compressed_index_that_tensorflow_reads_is_read(tmp_path):
    tf = pytest.importorskip("tensorflow")
    arrays = {f"model/transformer/layer_{number}/kernel": np.array(number, "float32") for number in range(60)}
    folder = write(tmp_path, arrays)
    index = folder / "model.ckpt.index"
    index.write_bytes(compressed(index.read_bytes()))
    theirs = tf.train.load_checkpoint(str(folder))
    assert_same({name: np.asarray(theirs.get_tensor(name)) for name in arrays}, arrays)
    assert_same(read(folder), arrays)


def compressed(table: bytes) -> bytes:
    """Compress a table of one block by snappy: what stands a little before is copied from there."""
    block, out, place, copies = table[: table.index(EMPTY_BLOCK) - 5], b"", 0, 0
    while place < len(block):
        piece = block[place : place + 5]
        before = block.rfind(piece, max(0, place - 2000), place)
        back = place - before
        if len(piece) == 5 and before >= 0:
            out += bytes([1 | (5 - 4) << 2 | (back >> 8) << 5, back & 0xFF])
            copies += 1
        else:
            out += bytes([len(piece) - 1 << 2]) + piece
        place += len(piece)
    assert copies > 20
    return table_of(varint(len(block)) + out, kind=1, key=b"\xff")


# --------------------------------------------------------------------------------------- strings, objects, resources


def test_the_graph_of_objects_is_an_extra_and_the_rest_are_listed_as_they_are(tmp_path):
    tf = pytest.importorskip("tensorflow")
    held = tf.train.Checkpoint(layer=tf.Module(), step=tf.Variable(3, dtype="int64"))
    held.layer.kernel = tf.Variable(ARRAYS["model/layer_0/kernel"])
    prefix = Path(held.write(str(tmp_path / "ckpt")))
    reader = tf1.Reader(prefix)
    assert list(reader) == ["layer/kernel/.ATTRIBUTES/VARIABLE_VALUE", "step/.ATTRIBUTES/VARIABLE_VALUE"]
    graph = reader.extras["_CHECKPOINTABLE_OBJECT_GRAPH"]
    assert (graph.kind, graph.shape) == ("string", ())
    assert b"VARIABLE_VALUE" in graph.data
    again = write(tmp_path / "again", read(prefix), extras=reader.extras, name="ckpt")
    other = tf.train.Checkpoint(layer=tf.Module(), step=tf.Variable(0, dtype="int64"))
    other.restore(str(again / "ckpt")).expect_partial()
    assert int(other.step) == 3


TEXTS = np.array([["a", "", "Größe"], ["x" * 300, "变", "\0"]], object)


def test_strings_are_kept_as_they_lie_among_the_variables(tmp_path):
    tf = pytest.importorskip("tensorflow")
    arrays = {"a": TEXTS, **dict(sorted(ARRAYS.items())), "z": np.array([], object).reshape(0)}
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "model.ckpt"),
        tensor_names=list(arrays),
        shape_and_slices=[""] * len(arrays),
        tensors=[tf.constant(array, "string") if array.dtype == object else array for array in arrays.values()],
    )
    reader = tf1.Reader(tmp_path / "model.ckpt")
    assert {name: (other.kind, other.shape) for name, other in reader.extras.items()} == {
        "a": ("string", (2, 3)),
        "z": ("string", (0,)),
    }
    assert_same(read(tmp_path / "model.ckpt"), ARRAYS)
    for most in (0, 64):
        again = write(tmp_path / f"again{most}", ARRAYS, extras=reader.extras, max_bytes=most)
        theirs = tf.train.load_checkpoint(str(again)).get_tensor("a")
        assert [[text.decode() for text in row] for row in theirs] == TEXTS.tolist()
    same = tmp_path / "again0" / "model.ckpt.index"
    assert same.read_bytes() == (tmp_path / "model.ckpt.index").read_bytes()


def string_folder(folder: Path, data: bytes, crc: int, shape: tuple[int, ...] = (2,), kind: int = 7) -> Path:
    record = number_field(1, kind) + shape_field(*shape) + number_field(5, len(data)) + fixed_field(6, crc)
    return index_folder(folder, {b"words": record}, data)


def strings(*texts: bytes) -> tuple[bytes, int]:
    """Return strings as they lie, and their checksum: over lengths in four bytes each, their own sum, and texts."""
    lengths = sum_of(b"".join(len(text).to_bytes(4, "little") for text in texts))
    inner = masked(lengths).to_bytes(4, "little")
    body = inner + b"".join(texts)
    return b"".join(varint(len(text)) for text in texts) + body, masked(sum_of(body, lengths))


def test_strings_are_held_against_their_checksums(tmp_path):
    data, crc = strings(b"one", b"three")
    assert tf1.Reader(string_folder(tmp_path / "good", data, crc)).extras["words"].data == data
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 4
        with pytest.raises(FormatError, match=r"00001: 'words' must (hold strings of the lengths|match its checksum)"):
            tf1.Reader(string_folder(tmp_path / f"bad{place}", bytes(damaged), crc))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2**40,), (2, 0)])
def test_strings_that_are_more_or_fewer_than_their_shape_says_are_refused(tmp_path, shape):
    with pytest.raises(FormatError, match=r"'words'(:| must hold strings)"):
        tf1.Reader(string_folder(tmp_path, *strings(b"one", b"three"), shape))


def test_resources_and_large_strings_are_listed_and_not_written_again(tmp_path, monkeypatch):
    reader = tf1.Reader(string_folder(tmp_path / "handle", b"whatever", 5, kind=20))
    assert reader.extras == {"words": tf1.Other("resource", (2,), b"whatever", 5)}
    monkeypatch.setattr(tf1, "_MOST_OTHERS", 5)
    extras = tf1.Reader(string_folder(tmp_path / "large", *strings(b"one", b"three"))).extras
    assert extras["words"].data is None
    with pytest.raises(FormatError) as refused:
        tf1.Writer([], extras=extras)
    told = "an extra of a TensorFlow checkpoint must be one of its own kind, whole, got one too large to be kept"
    assert str(refused.value) == f"words: {told}"


# ------------------------------------------------------------------------------------------------------------ slices


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_partitioned_variable_is_put_together(tmp_path, axis):
    tf = pytest.importorskip("tensorflow")
    whole = RNG.standard_normal((5, 70, 6)).astype("float32")
    cuts = [[0, 2, 5], [0, 1, 66, 70], [0, 5, 6]][axis]
    for number, (start, stop) in enumerate(pairwise(cuts)):
        spec = ":".join("-" if each != axis else f"{start},{stop - start}" for each in range(3))
        part = np.take(whole, range(start, stop), axis)
        save(tf, tmp_path / f"part{number}", {"w": part, f"x{number}": ARRAYS["mask"]}, [f"5 70 6 {spec}", ""])
    parts = sorted(str(file).removesuffix(".index") for file in tmp_path.glob("part*.index"))
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(tmp_path / "all"))
    assert len(parts) == len(cuts) - 1
    reader = tf1.Reader(tmp_path / "all")
    assert reader["w"] == Entry("w", (5, 70, 6), FLOATS)
    assert bits(reader.read("w")) == bits(whole)
    assert np.array_equal(tf.train.load_checkpoint(str(tmp_path / "all")).get_tensor("w"), whole)


def test_a_partitioned_variable_of_a_saver_is_put_together(tmp_path):
    tf = pytest.importorskip("tensorflow")
    whole = RNG.standard_normal((1000, 3)).astype("float32")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        partitioner = tf.compat.v1.fixed_size_partitioner(7)
        tf.compat.v1.get_variable("w", initializer=tf.constant(whole), partitioner=partitioner)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    assert_same(read(tmp_path), {"w": whole})


def test_a_variable_of_one_slice_is_read(tmp_path):
    tf = pytest.importorskip("tensorflow")
    save(tf, tmp_path / "m", {"w": ARRAYS["model/layer_0/kernel"]}, ["3 4 -:-"])
    assert_same(read(tmp_path), {"w": ARRAYS["model/layer_0/kernel"]})
