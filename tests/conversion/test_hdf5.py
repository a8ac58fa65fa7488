"""HDF5 files of transformers' TensorFlow side: read and written without it, and never believed."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from filled import ARRAYS, BFLOAT16, FLOAT32, assert_holds, entries_of, fill
from fuzz import damaged, survive

from conversion.formats import h5_child, h5_process
from conversion.formats.base import Entry
from conversion.formats.h5_plan import Plan, Sketch
from conversion.formats.hdf5 import Reader, Writer
from xlcore import FormatError

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDERS = sorted((GOLDEN / "hf_files").glob("hf_tf-*"))
SHARDED = GOLDEN / "tf_sharded"
READER = "conversion.formats.hdf5:Reader"


def made(path: Path, build) -> Path:
    with h5py.File(path, "w") as file:
        build(file)
    return path


# --------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_what_transformers_wrote_is_read_bit_by_bit_in_its_order(folder):
    reader = Reader(folder)
    listed = [line.split(" [")[0] for line in (folder / "variables.txt").read_text().splitlines()]
    assert sorted(listed) == sorted(reader)
    with h5py.File(folder / "tf_model.h5") as file:
        layers = [name.decode() if isinstance(name, bytes) else name for name in file.attrs["layer_names"]]
        order = [f"{layer}/{weight}" for layer in layers for weight in file[layer].attrs["weight_names"]]
        assert list(reader) == order
        assert_holds(reader, {name: file[name][()] for name in order})
    assert reader.extras == {"backend": "tensorflow", "keras_version": "2.15.0", "layer_names": layers}


def test_shards_that_transformers_wrote_hold_the_same_weights():
    whole, shards = Reader(GOLDEN / "hf_files" / "hf_tf-transfo_xl_lm"), Reader(SHARDED)
    assert len(shards.files) == 4
    assert_holds(shards, {name.split("/", 2)[2]: whole.read(name) for name in whole})


def test_everything_that_hdf5_can_do_to_numbers_is_undone(tmp_path):
    square = np.random.default_rng(0).standard_normal((97, 33))
    arrays = {
        "packed": square,
        "shuffled": square.astype("f4"),
        "lzf": square.astype("f2"),
        "cut": np.arange(1000).reshape(10, 100),
        "huge rows": np.arange(60_000, dtype="u4").reshape(2, 30_000),
        "flags": square > 0,
        "single": np.array(3, "i2"),
        "within": np.arange(4, dtype="u1"),
        "never written": np.zeros((3, 4), "f4"),
        "filled": np.full((3, 4), 2, "f4"),
    }

    def build(file):
        file.create_dataset("packed", data=arrays["packed"], compression="gzip", fletcher32=True)
        file.create_dataset("shuffled", data=arrays["shuffled"], compression="gzip", shuffle=True, chunks=(50, 7))
        file.create_dataset("lzf", data=arrays["lzf"], compression="lzf")
        file.create_dataset("cut", data=arrays["cut"], chunks=(3, 7))
        for name in ("huge rows", "flags", "single"):
            file[name] = arrays[name]
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        file.create_dataset("within", data=arrays["within"], dcpl=compact)
        file.create_dataset("never written", (3, 4), "f4")
        file.create_dataset("filled", (3, 4), "f4", chunks=(2, 2), fillvalue=2)

    assert_holds(Reader(made(tmp_path / "x.h5", build)), arrays)


def test_numbers_of_the_other_byte_order_are_turned(tmp_path):
    file = made(tmp_path / "x.h5", lambda file: file.create_dataset("a", data=np.arange(5, dtype=">f4")))
    assert_holds(Reader(file), {"a": np.arange(5, dtype="f4")})


def test_a_packed_tensor_is_read_some_rows_at_a_time(monkeypatch, tmp_path):
    array = np.arange(7000, dtype="u2").reshape(1000, 7)
    file = made(tmp_path / "x.h5", lambda file: file.create_dataset("a", data=array, chunks=(30, 5), compression=1))
    for room, largest in ((100, 1 << 20), (1 << 20, 1 << 20), (100, 20)):
        monkeypatch.setattr(h5_child, "_FREE", room)
        monkeypatch.setattr(h5_child, "_LARGEST_CHUNK", largest)
        with h5py.File(file) as opened, (tmp_path / "out").open("wb") as out:
            h5_child.send(opened["a"], out)
        assert (tmp_path / "out").read_bytes() == array.tobytes()


def test_names_that_need_several_attributes_are_put_together(tmp_path):
    names = [f"model/layer/{'w' * 300}{number}:0" for number in range(700)]

    def build(file):
        file.attrs["layer_names"] = [b"layer"]
        group = file.create_group("layer")
        for number, part in enumerate(np.array_split(np.asarray([name.encode() for name in names]), 4)):
            group.attrs[f"weight_names{number}"] = part
        for name in names:
            group[name] = np.float32(1)

    assert list(Reader(made(tmp_path / "x.h5", build))) == [f"layer/{name}" for name in names]


# ----------------------------------------------------------------------------------------------------------- writing

TF = {f"transformer/tf_model/transformer/{name}:0": array for name, array in ARRAYS.items()}
TF |= {f"lm_loss/tf_model/{name}:0": FLOAT32[name] for name in FLOAT32}


def test_what_is_written_is_read_bit_by_bit(tmp_path):
    fill(Writer(entries_of(TF)), tmp_path, TF)
    reader = Reader(tmp_path)
    assert list(reader) == list(TF)
    assert_holds(reader, TF)
    assert reader.extras["layer_names"] == ["transformer", "lm_loss"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_file_of_transformers_goes_round_with_all_that_keras_looks_for(tmp_path, folder):
    first = Reader(folder)
    arrays = {name: first.read(name) for name in first}
    fill(Writer(entries_of(arrays), extras=first.extras), tmp_path, arrays)
    with h5py.File(folder / "tf_model.h5") as wanted, h5py.File(tmp_path / "tf_model.h5") as found:
        seen: list[str] = []
        wanted.visit(seen.append)
        for path in ["/", *seen]:
            assert type(found[path]) is type(wanted[path])
            assert {key: list(np.ravel(value)) for key, value in found[path].attrs.items()} == {
                key: list(np.ravel(value)) for key, value in wanted[path].attrs.items()
            }
        other: list[str] = []
        found.visit(other.append)
        assert sorted(other) == sorted(seen)
        assert all(found[path][()].tobytes() == array.tobytes() for path, array in arrays.items())


def test_layers_without_weights_keep_their_place(tmp_path):
    extras = {"layer_names": ["dropout", "transformer", "summary"], "keras_version": "2.14.0"}
    arrays = {"transformer/m/w:0": np.ones(2, "f4"), "top_level_model_weights/m/scale:0": np.ones(1, "f4")}
    fill(Writer(entries_of(arrays), extras=extras), tmp_path, arrays)
    assert Reader(tmp_path).extras == {**extras, "backend": "tensorflow"}
    with h5py.File(tmp_path / "tf_model.h5") as file:
        assert list(file["top_level_model_weights"].attrs["weight_names"]) == ["m/scale:0"]
        assert not len(file["dropout"].attrs["weight_names"])


def test_names_too_long_for_one_attribute_are_cut_as_keras_cuts_them(tmp_path):
    arrays = {f"layer/model/{'w' * 200}{number}:0": np.ones(1, "f4") for number in range(700)}
    fill(Writer(entries_of(arrays)), tmp_path, arrays)
    with h5py.File(tmp_path / "tf_model.h5") as file:
        assert sorted(file["layer"].attrs) == ["weight_names0", "weight_names1", "weight_names2"]
    assert list(Reader(tmp_path)) == list(arrays)


def test_the_same_arguments_make_the_same_bytes(tmp_path):
    for most in (0, 100):
        one, other = (fill(Writer(entries_of(TF), max_bytes=most), tmp_path / f"{most}{each}", TF) for each in "ab")
        assert one == other


def test_shards_are_laid_out_as_transformers_lays_them_out(tmp_path):
    whole = Reader(GOLDEN / "hf_files" / "hf_tf-transfo_xl_lm")
    arrays = {name: whole.read(name) for name in whole}
    fill(Writer(entries_of(arrays), max_bytes=20_000), tmp_path, arrays)
    shards = Reader(SHARDED)
    assert_holds(Reader(tmp_path), {name: shards.read(name) for name in shards})
    ours, theirs = (json.loads((each / "tf_model.h5.index.json").read_text()) for each in (tmp_path, SHARDED))
    assert ours["metadata"] == theirs["metadata"]
    assert ours["weight_map"].keys() == theirs["weight_map"].keys()
    for name in (path.name for path in tmp_path.glob("*.h5")):
        with h5py.File(tmp_path / name) as file:
            assert not [path for path in file.attrs["layer_names"] if not isinstance(file[path], h5py.Dataset)]


def test_a_tied_copy_lies_once_in_shards(tmp_path):
    table = np.arange(6, dtype="f4")
    arrays = {"lm/m/body/table:0": table, "body/m/body/table:0": table, "body/m/body/w:0": np.ones(9, "f4")}
    writer = Writer(entries_of(arrays), max_bytes=24)
    fill(writer, tmp_path, arrays)
    assert writer.places["lm/m/body/table:0"] == writer.places["body/m/body/table:0"]
    assert_holds(Reader(tmp_path), {"body/table:0": table, "body/w:0": np.ones(9, "f4")})


def test_a_file_of_forty_gigabytes_is_planned_in_little_memory():
    entries = {f"layer/m/{number}:0": Entry("", (4096, 4096), np.dtype("f4")) for number in range(600)}
    plan = Plan(lambda file: None, entries)
    assert plan.size > 600 * 4096 * 4096 * 4
    assert sum(len(piece) for _, piece in plan.pieces()) < 8 << 20
    starts = sorted(plan.starts.values())
    assert all(end - start >= 4096 * 4096 * 4 for start, end in pairwise(starts))


def test_what_cannot_be_written_is_refused():
    with pytest.raises(
        FormatError, match=r"^hdf5: 'c/short' must have dtype float64, .* or a whole number, got bfloat16$"
    ):
        Writer(entries_of(BFLOAT16))
    with pytest.raises(
        FormatError, match=r"^hdf5: 'alone' must name its layer, as in layer/model/layer/weight:0, got no"
    ):
        Writer([Entry("alone", (1,), np.dtype("f4"))])
    with pytest.raises(
        FormatError, match=r"^hdf5: every tensor must have bytes of its own, got 'b' shared; give it as an"
    ):
        Writer([], shared={"b": "a"})


def test_a_sketch_behaves_as_a_file(tmp_path):
    sketch = Sketch()
    with (tmp_path / "file").open("wb+") as file:
        for each in (sketch, file):
            for offset, data in ((5, b"abc"), (9000, b"x" * 5000), (3, b"zz"), (13_990, b"end of it")):
                each.seek(offset)
                each.write(data)
            each.seek(2)
            assert each.read(4) == b"\0zza"
            assert each.seek(-3, os.SEEK_END) == 13_997
            assert each.read(9) == b"itx"
            each.seek(7)
            assert each.seek(1, os.SEEK_CUR) == each.tell() == 8
            each.truncate(13_999)
        file.flush()
        content = (tmp_path / "file").read_bytes()
    laid = bytearray(sketch.size)
    for offset, piece in sketch.pieces():
        laid[offset : offset + len(piece)] = piece
    assert bytes(laid) == content == sketch.content(0, sketch.size)
    assert sketch.readable()
    assert sketch.writable()
    assert sketch.seekable()


# ----------------------------------------------------------------------------------------------------------- hostile

Q = r".*x\.h5: "


def links_out(file):
    file["a"] = h5py.ExternalLink("/etc/passwd", "/a")


def links_within(file):
    file["real"] = np.ones(2)
    file["a"] = h5py.SoftLink("/real")


def lies_elsewhere(file):
    file.create_dataset("a", (4,), "f4", external=[("/etc/passwd", 0, 16)])


def is_virtual(file):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "b", (4,))
    file.create_virtual_dataset("a", layout)


def lies_twice(file):
    file["a"] = np.ones(2)
    file["b"] = file["a"]


def goes_round(file):
    within = file.create_group("a/b")
    within["up"] = file["a"]


def text(file):
    file["a"] = "text"


def compound(file):
    file["a"] = np.zeros(2, [("x", "f4"), ("y", "i4")])


def opaque(file):
    file["a"] = np.zeros(2, "V2")


def long_double(file):
    file["a"] = np.zeros(2, np.longdouble)


def nothing(file):
    file["a"] = h5py.Empty("f4")


def expands(file):
    file.create_dataset("a", (1 << 32,), "f4", chunks=(1 << 16,), compression="gzip")[: 1 << 20] = 0


def was_never_written(file):
    file.create_dataset("a", (1 << 40,), "f4")


def has_large_chunks(file):
    file.create_dataset("a", (1 << 10,), "f4", chunks=(1 << 10,), maxshape=(None,))
    file.create_dataset("b", (16,), "f4", chunks=(1 << 28,), maxshape=(None,))


def filtered(file):
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((4,))
    creation.set_filter(32_999, h5py.h5z.FLAG_OPTIONAL, (1,))
    file.create_dataset("a", (4,), "f4", dcpl=creation, allow_unknown_filter=True)


def lacks_a_weight(file):
    file.attrs["layer_names"] = [b"layer"]
    file.create_group("layer").attrs["weight_names"] = [b"gone:0"]


def is_deep(file):
    file.create_group("/".join("a" * 70))


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (links_out, r"'a' must lie in the file itself, got a link$"),
        (links_within, r"'a' must lie in the file itself, got a link$"),
        (lies_elsewhere, r"'a' must lie in the file itself, got one in other files$"),
        (is_virtual, r"'a' must lie in the file itself, got one in other files$"),
        (lies_twice, r"'b' must lie in one place, got it in two$"),
        (goes_round, r"'a/b/up' must lie in one place, got it in two$"),
        (text, r"'a' must hold numbers, got object$"),
        (compound, r"'a' must hold numbers, got \[\('x'"),
        (opaque, r"'a' must hold numbers, got \|V2$"),
        (long_double, r"'a' must hold numbers, got float128$"),
        (nothing, r"'a' must have a shape, got an empty dataspace$"),
        (expands, r"'a' must not unpack to over 100 times what is stored, got shape \[4294967296\]$"),
        (was_never_written, r"'a' must not unpack to over 100 times what is stored, got shape"),
        (has_large_chunks, r"'b' must have chunks of at most 268435456 bytes, got \[268435456\]$"),
        (filtered, r"'a' must be packed with deflate, shuffle or lzf, got filter 32999$"),
        (lacks_a_weight, r"'layer' must hold its weight 'gone:0', got a file without it$"),
        (is_deep, r"must hold at most 200000 objects 64 deep, got more$"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_leads_elsewhere_or_lies_is_refused(tmp_path, build, told):
    with pytest.raises(FormatError, match=Q + told):
        Reader(made(tmp_path / "x.h5", build))


def test_a_file_within_another_is_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w", userblock_size=512) as file:
        file["a"] = np.ones(2)
    with pytest.raises(FormatError, match=Q + "must begin with its own header, got 512 bytes before it$"):
        Reader(tmp_path / "x.h5")


def test_claims_that_the_file_is_too_short_for_are_refused(tmp_path):
    def build(file):
        file["a"] = np.arange(1000, dtype="f4")

    file = made(tmp_path / "x.h5", build)
    content = file.read_bytes()
    assert_holds(Reader(file), {"a": np.arange(1000, dtype="f4")})
    for size, number in ((8, (1000).to_bytes(8, "little")), (8, (4000).to_bytes(8, "little"))):
        at = content.index(number)
        file.write_bytes(content[:at] + (1 << 40).to_bytes(size, "little") + content[at + size :])
        with pytest.raises(FormatError, match=Q):
            Reader(file)


def test_no_file_and_no_hdf5_are_told(tmp_path):
    with pytest.raises(FormatError, match=r"must hold tf_model\.h5 or tf_model\.h5\.index\.json, got an empty folder$"):
        Reader(tmp_path)
    (tmp_path / "tf_model.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(
        FormatError, match=r"tf_model\.h5: must be a whole HDF5 file, got one that its library fails on: OSE"
    ):
        Reader(tmp_path)
    with pytest.raises(FormatError, match=r"gone\.h5: must be there, got No such file or directory$"):
        h5_process.list_h5(tmp_path / "gone.h5")


def test_lying_shards_are_named(tmp_path):
    first, second = (path.name for path in sorted(SHARDED.glob("*.h5"))[:2])
    for name in (first, second):
        (tmp_path / name).write_bytes((SHARDED / name).read_bytes())
    index = tmp_path / "tf_model.h5.index.json"
    index.write_text(json.dumps({"weight_map": {"m/gone:0": first}}))
    with pytest.raises(
        FormatError, match=r"00001-of-00003\.h5: must hold 'gone:0', as its index says, got a file without"
    ):
        Reader(tmp_path)
    (tmp_path / second).write_bytes((SHARDED / first).read_bytes())
    known = next(iter(Reader(tmp_path / first)))
    index.write_text(json.dumps({"weight_map": {f"m/{known}": first, f"m/x/{known}": second, "model.x": second}}))
    with pytest.raises(FormatError, match=r"must (hold|lie in one file)"):
        Reader(tmp_path)
    index.write_text(json.dumps({"weight_map": {f"m/{known}": first, f"n/{known}": second}}))
    with pytest.raises(
        FormatError, match=rf"00002-of-00003\.h5: '{known}' must lie in one file, got it in {first}, too$"
    ):
        Reader(tmp_path)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("import os; os.kill(os.getpid(), 11)", "it was stopped by signal 11"),
        ("import sys; sys.exit(3)", "it ended with 3"),
        ("while True: pass", "it was stopped by signal (9|24)"),
        ("x = bytes(4 << 30)", "it ended with 1"),
    ],
    ids=["crash", "exit", "endless", "memory"],
)
def test_a_file_that_brings_the_library_down_is_an_error_as_any_other(tmp_path, monkeypatch, script, told):
    child = tmp_path / "child.py"
    limits = f"import sys; sys.path.insert(0, {str(Path(h5_child.__file__).parents[2])!r})\n"
    limits += "from conversion.formats.h5_child import limit\nlimit(512 << 20, 1)\n"
    child.write_text(limits + script)
    monkeypatch.setattr(h5_process, "_CHILD", child)
    (tmp_path / "x.h5").touch()
    with pytest.raises(FormatError, match=Q + f"must be a whole HDF5 file, got one that its library fails on: {told}$"):
        Reader(tmp_path / "x.h5")


@pytest.mark.parametrize(("change", "told"), [(b"", "less"), (b"more than there should be", "more")])
def test_a_packed_tensor_that_changes_is_told(tmp_path, monkeypatch, change, told):
    file = made(tmp_path / "x.h5", lambda file: file.create_dataset("a", data=np.arange(4.0), compression=1))
    reader = Reader(file)
    child = tmp_path / "child.py"
    child.write_text(f"import sys; sys.stdout.buffer.write({bytes(32) + change!r}[:{20 if not change else 99}])")
    monkeypatch.setattr(h5_process, "_CHILD", child)
    with pytest.raises(FormatError, match=Q + f"'a' must unpack to 32 bytes, got {told}$"):
        reader.read("a")


def test_the_child_says_nothing_where_people_read(tmp_path, capfd):
    (tmp_path / "x.h5").write_bytes((GOLDEN / "tf_sharded" / "tf_model-00001-of-00003.h5").read_bytes()[:5000])
    with pytest.raises(FormatError):
        Reader(tmp_path / "x.h5")
    assert capfd.readouterr() == ("", "")


def test_damaged_files_raise_format_errors_only(tmp_path):
    content = next(iter(SHARDED.glob("*.h5"))).read_bytes()
    within = (0, 12_000)
    paths = []
    for number, each in enumerate(damaged(content, 24, within=within)):
        paths.append(tmp_path / f"{number}.h5")
        paths[-1].write_bytes(each)
    told = survive(READER, paths, tmp_path)
    assert 2 < told.count("read") < 23


def test_the_child_imports_nothing_of_ours():
    code = f"import sys, runpy; runpy.run_path({h5_child.__file__!r}); print([n for n in sys.modules if 'xlcore' in n])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
