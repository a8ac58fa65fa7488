"""Torch files: read without torch whatever lies in them, written so that torch opens them, believed in nothing."""

import argparse
import io
import json
import pickle
import pickletools
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from filled import ARRAYS, BFLOAT16, assert_holds, entries_of, fill
from fuzz import damaged, survive

from conversion.formats import torch_files, torch_tree
from conversion.formats.base import Entry
from conversion.formats.torch_files import HERE, Reader, Writer
from xlcore import FormatError
from xlcore.pickles import Placeholder

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = sorted([*GOLDEN.glob("hf_files/*/pytorch_model.bin"), *GOLDEN.glob("original/*torch*/model.pt")])
torch = pytest.importorskip("torch")

each_container = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "stream"])


def saved(path: Path, held, legacy: bool = False) -> Path:
    torch.save(held, path, _use_new_zipfile_serialization=not legacy)
    return path


def bits(tensor) -> bytes:
    """Return the bytes of a tensor in C order."""
    whole = tensor.detach().contiguous()
    return (
        whole.view(torch.uint8).numpy().tobytes()
        if whole.ndim
        else whole.reshape(1).view(torch.uint8).numpy().tobytes()
    )


def assert_reads(reader, tensors) -> None:
    assert set(reader) == set(tensors)
    for name, tensor in tensors.items():
        assert reader[name].shape == tuple(tensor.shape)
        assert reader[name].dtype.name == str(tensor.dtype).removeprefix("torch.")
        array = reader.read(name)
        assert (array.shape, array.dtype) == (reader[name].shape, reader[name].dtype)
        assert array.tobytes() == bits(tensor), name


# --------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_what_transformers_and_the_authors_wrote_is_read_bit_by_bit(file):
    tensors = torch.load(file, weights_only=True)
    reader = Reader(file)
    assert list(reader) == list(tensors)
    assert_reads(reader, tensors)
    listed = [line.split(" [")[0] for line in (file.parent / "variables.txt").read_text().splitlines()]
    assert sorted(listed) == sorted(reader)
    assert reader.files == (file,)
    assert not reader.extras
    assert not reader.aside


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_tied_tensors_are_told(file):
    first = {}
    tensors = torch.load(file, weights_only=True)
    tied = {
        name: kept for name, tensor in tensors.items() if (kept := first.setdefault(tensor.data_ptr(), name)) != name
    }
    assert Reader(file).shared == tied


DTYPES = (
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool uint16 uint32 uint64 float8_e4m3fn float8_e5m2"
)


@each_container
def test_every_dtype_comes_back(tmp_path, legacy):
    raw = torch.arange(96, dtype=torch.uint8)
    tensors = {name: raw.clone().view(getattr(torch, name)) for name in DTYPES.split() if name != "bool"}
    tensors["bool"] = raw > 40
    assert_reads(Reader(saved(tmp_path / "x.pt", tensors, legacy)), tensors)


@each_container
@pytest.mark.parametrize("slack", [0, 1 << 20])
def test_tensors_lie_any_way_in_their_storage(tmp_path, monkeypatch, legacy, slack):
    monkeypatch.setattr(torch_files, "_SLACK", slack)
    base = torch.arange(5000, dtype=torch.float32)
    square = base[:4096].view(64, 64)
    tensors = {
        "turned": square.T,
        "column": square[:, 3],
        "few rows": square[::21, 2:60:19],
        "tail": base[4990:],
        "one": base[7],
        "repeated": base[5:8, None].expand(3, 4),
        "cube": base[:120].view(4, 5, 6).permute(2, 0, 1),
        "none": base[:0].view(0, 3),
        "sparse": base[::2],
        "ones": base[:6].view(6, 1, 1).transpose(0, 1),
    }
    reader = Reader(saved(tmp_path / "x.pt", tensors, legacy))
    assert_reads(reader, tensors)
    assert not reader.shared
    assert all(reader.read(name).base is None or reader.read(name).base.nbytes < 30_000 for name in tensors)


def test_only_what_is_the_same_view_counts_as_shared(tmp_path):
    one = torch.arange(12.0)
    tensors = {"a": one, "b": one, "c": one.view(3, 4), "d": one[:6], "e": one.clone(), "f": one[:6], "none": one[:0]}
    assert Reader(saved(tmp_path / "x.pt", tensors)).shared == {"b": "a", "f": "d"}


def test_numbers_of_the_other_byte_order_are_turned(tmp_path):
    file = saved(tmp_path / "x.pt", {"a": torch.arange(6.0), "b": torch.arange(6.0).bfloat16()})
    with zipfile.ZipFile(file) as archive:
        contents = {info.filename: archive.read(info) for info in archive.infolist()}
    top = next(iter(contents)).split("/")[0]
    contents[f"{top}/byteorder"] = b"big"
    contents[f"{top}/data/0"] = np.arange(6, dtype=">f4").tobytes()
    contents[f"{top}/data/1"] = np.arange(6).astype(ml_dtypes.bfloat16).byteswap().tobytes()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    reader = Reader(file)
    assert reader["a"].dtype == np.dtype("float32")
    assert reader.read("a").tolist() == reader.read("b").astype("f4").tolist() == list(range(6))


# ------------------------------------------------------------------------------------------------- what a file holds

A, B = torch.arange(6.0).view(2, 3), torch.ones(4)
STATE = {"x.weight": A, "x.bias": B}


@each_container
@pytest.mark.parametrize("key", torch_tree.KEYS)
def test_a_state_dict_is_found_under_its_usual_keys(tmp_path, key, legacy):
    held = {"epoch": 3, key: STATE, "args": argparse.Namespace(layers=2, rates=[0.1, None]), "step": torch.tensor(5)}
    reader = Reader(saved(tmp_path / "x.pt", held, legacy))
    assert_reads(reader, STATE)
    assert reader.extras["epoch"] == 3
    assert reader.extras[key] is HERE
    assert reader.extras["args"].attributes == {"layers": 2, "rates": [0.1, None]}
    assert reader.aside == {"step": Entry("step", (), np.dtype("int64"))}
    assert reader.notes == (f"took the tensors under {key!r}; beside them lay 'epoch', 'args', 'step'",)


def test_an_optimizers_tensors_lie_aside(tmp_path):
    held = {"model": STATE, "optimizer": {"state": {0: {"exp_avg": A, "step": 4}}, "param_groups": [{"params": [0]}]}}
    reader = Reader(saved(tmp_path / "x.pt", held))
    assert list(reader) == list(STATE)
    assert reader.aside == {"optimizer.state.0.exp_avg": Entry("optimizer.state.0.exp_avg", (2, 3), np.dtype("f4"))}


def test_both_halves_of_a_translation_model_are_read(tmp_path):
    held = {"encoder": STATE, "decoder": {"x.weight": B}, "params": {"mask": A}}
    reader = Reader(saved(tmp_path / "x.pt", held))
    assert_reads(reader, {"encoder.x.weight": A, "encoder.x.bias": B, "decoder.x.weight": B})
    assert reader.shared == {"decoder.x.weight": "encoder.x.bias"}
    assert list(reader.aside) == ["params.mask"]
    assert reader.extras["encoder"] is reader.extras["decoder"] is HERE


def test_dictionaries_in_dictionaries_are_named_by_their_path(tmp_path):
    held = {"net": {"layers": [{"w": A}, {"w": B}], "scale": B, "size": 3}, "unrelated": None}
    reader = Reader(saved(tmp_path / "x.pt", held))
    assert_reads(reader, {"layers.0.w": A, "layers.1.w": B, "scale": B})
    assert reader.extras == {"size": 3, "net": HERE, "unrelated": None}


def test_an_unusual_key_will_do_if_it_is_the_only_one(tmp_path):
    reader = Reader(saved(tmp_path / "x.pt", {"my_net": STATE, "epoch": 1}))
    assert_reads(reader, STATE)
    assert Reader(saved(tmp_path / "y.pt", {"up": {"w": A}, "down": {"w": B}})).shared == {}
    with pytest.raises(FormatError) as refused:
        Reader(saved(tmp_path / "z.pt", {"up": {"w": A}, "down": {"w": B}, "epoch": 1}))
    known = ", ".join(torch_tree.KEYS)
    assert str(refused.value) == (
        f"{tmp_path / 'z.pt'}: the model must lie under one of {known}, got tensors under 'up', 'down'"
    )


class Net(torch.nn.Module):
    """A model that is pickled as a whole."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
        self.out = torch.nn.Linear(2, 2, bias=False)
        self.out.weight = torch.nn.Parameter(torch.eye(2))
        self.register_buffer("kept", torch.ones(1))
        self.register_buffer("fleeting", torch.ones(1), persistent=False)
        self.size = 3


@each_container
def test_a_pickled_module_gives_the_names_of_its_state_dict(tmp_path, legacy):
    net = Net()
    reader = Reader(saved(tmp_path / "x.pt", net, legacy))
    assert_reads(reader, net.state_dict())
    assert reader.extras["size"] == 3
    assert reader.notes == ("took the tensors of a pickled module, test_torch_files.Net",)


@pytest.mark.parametrize(
    ("held", "told"),
    [
        ({}, "a dictionary of nothing"),
        ({"a": 1, "b": {"c": 2}}, "a dictionary of 'a', 'b'"),
        (None, "NoneType"),
        ([A], "list"),
        (A, "Stored"),
        (argparse.Namespace(a=1), "<Placeholder argparse.Namespace>"),
    ],
    ids=["empty", "numbers", "none", "list", "tensor", "object"],
)
def test_a_file_without_named_tensors_is_refused_with_what_it_holds(tmp_path, held, told):
    with pytest.raises(FormatError) as refused:
        Reader(saved(tmp_path / "x.pt", held))
    assert str(refused.value) == f"{tmp_path / 'x.pt'}: must hold tensors by name, got {told}"


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (torch.eye(2).to_sparse(), r"'b' must be a plain tensor, got one made by _rebuild_sparse_tensor$"),
        (torch.zeros(2, dtype=torch.complex64), r"a reference must be .*, got type ComplexFloatStorage$"),
    ],
    ids=["sparse", "complex"],
)
def test_a_tensor_of_another_kind_is_refused_by_name(tmp_path, tensor, told):
    with pytest.raises(FormatError, match=told):
        Reader(saved(tmp_path / "x.pt", {"a": A, "b": tensor}))


def test_a_name_that_two_paths_make_is_refused(tmp_path):
    with pytest.raises(FormatError, match=r"every tensor must have a name of its own, got 'a\.b' twice$"):
        Reader(saved(tmp_path / "x.pt", {"a.b": A, "a": {"b": B}}))


# ----------------------------------------------------------------------------------------------------------- folders


def write_shards(folder: Path, **more) -> dict[str, str]:
    saved(folder / "pytorch_model-00001-of-00002.bin", {"x.weight": A})
    saved(folder / "pytorch_model-00002-of-00002.bin", {"x.bias": B})
    weight_map = {f"x.{part}": f"pytorch_model-0000{n}-of-00002.bin" for n, part in enumerate(("weight", "bias"), 1)}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {**weight_map, **more}}))
    return weight_map


def test_shards_are_read_as_one(tmp_path):
    write_shards(tmp_path)
    for path in (tmp_path, tmp_path / "pytorch_model.bin.index.json"):
        assert_reads(Reader(path), STATE)
    assert len(Reader(tmp_path).files) == 3


def test_missing_and_lying_shards_are_named(tmp_path):
    write_shards(tmp_path, gone="pytorch_model-00001-of-00002.bin")
    with pytest.raises(FormatError, match=r"00001-of-00002\.bin: must hold 'gone', as its index says"):
        Reader(tmp_path)
    write_shards(tmp_path)
    saved(tmp_path / "pytorch_model-00002-of-00002.bin", STATE)
    with pytest.raises(
        FormatError, match=r"00002\.bin: 'x\.weight' must lie in one file, got it in pytorch_model-00001"
    ):
        Reader(tmp_path)
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(FormatError, match=r"00002-of-00002\.bin: must be a file that can be read, got No such file"):
        Reader(tmp_path)


def test_a_folder_may_hold_one_file_of_any_name_beside_what_training_leaves(tmp_path):
    for name in ("optimizer.pt", "training_args.bin", "vocab.bin", "rng_state_0.pth", "scheduler.pt"):
        (tmp_path / name).touch()
    with pytest.raises(FormatError, match=r"must hold pytorch_model\.bin or .*, got optimizer\.pt, rng_state_0\.pth"):
        Reader(tmp_path)
    saved(tmp_path / "model.pt", STATE)
    assert Reader(tmp_path).files == (tmp_path / "model.pt",)
    saved(tmp_path / "other.pth", STATE)
    with pytest.raises(
        FormatError, match=r"must hold one checkpoint, got model\.pt, other\.pth; give the path of one$"
    ):
        Reader(tmp_path)


def test_reading_is_lazy_and_sees_a_file_that_changes(tmp_path):
    file = saved(tmp_path / "x.pt", {"a": torch.ones(1000)})
    reader = Reader(file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(FormatError, match=r"must hold all its tensors, got \d+ bytes too few; is it cut off\?$"):
        reader.read("a")
    file.unlink()
    with pytest.raises(FormatError, match=r"x\.pt: must be there, got no such file$"):
        reader.read("a")


# ----------------------------------------------------------------------------------------------------------- writing

FLOAT8 = {"d/tiny": np.arange(9, dtype="f4").astype(ml_dtypes.float8_e4m3fn)}
ALL = ARRAYS | BFLOAT16 | FLOAT8


def test_what_is_written_is_read_bit_by_bit_and_by_torch_too(tmp_path):
    shared = {"tied": "a/b/weight", "again": "a/b/weight"}
    fill(Writer(entries_of(ALL), shared=shared), tmp_path, ALL)
    reader = Reader(tmp_path)
    assert_holds(reader, ALL | dict.fromkeys(shared, ALL["a/b/weight"]))
    assert reader.shared == shared
    for mmap in (False, True):
        found = torch.load(tmp_path / "pytorch_model.bin", weights_only=True, mmap=mmap)
        assert_reads(reader, found)
        assert found["tied"].data_ptr() == found["again"].data_ptr() == found["a/b/weight"].data_ptr()
        found["tied"][0, 0] = 7
        assert found["a/b/weight"][0, 0] == 7


def test_storages_are_aligned_and_checked_as_torch_does(tmp_path):
    writer = Writer(entries_of(ALL))
    fill(writer, tmp_path, ALL)
    assert all(place.offset % 64 == 0 for place in writer.places.values())
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin") as archive:
        assert archive.testzip() is None
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        pickletools.dis(archive.read("archive/data.pkl"), io.StringIO())


def test_the_same_arguments_make_the_same_bytes(tmp_path):
    one, other = (fill(Writer(entries_of(ALL), max_bytes=60), tmp_path / each, ALL) for each in "ab")
    assert one == other
    assert len(one) > 3


def test_shards_have_an_index_and_keep_tied_tensors_together(tmp_path):
    writer = Writer(entries_of(ALL), max_bytes=60, shared={"tied": "c/short"}, name="model.pt")
    fill(writer, tmp_path, ALL)
    assert writer.files[-1] == "model.pt.index.json"
    assert writer.files[0].startswith("model-00001-of-0000")
    index = json.loads((tmp_path / writer.files[-1]).read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in ALL.values())
    assert index["weight_map"]["tied"] == index["weight_map"]["c/short"]
    reader = Reader(tmp_path)
    assert_holds(reader, ALL | {"tied": ALL["c/short"]})
    assert reader.shared == {"tied": "c/short"}
    for file, names in ((file, [n for n, f in index["weight_map"].items() if f == file]) for file in writer.files[:-1]):
        assert sorted(torch.load(tmp_path / file, weights_only=True)) == sorted(names)


PLAIN = {"epoch": 3, "long": 2**70, "low": -5, "rate": 0.1, "text": "ä\n", "no": None, "yes": True, "list": [1, [2]],
         "map": {1: "a", ("b", 2): {}}, "pair": (1, "x"), "empty": []}  # fmt: skip


def test_extras_stand_beside_the_state_dict(tmp_path):
    args = argparse.Namespace(layers=2, name="x", sizes=[1, 2])
    first = Reader(saved(tmp_path / "x.pt", {**PLAIN, "model": STATE, "args": args})).extras
    arrays = {name: tensor.numpy() for name, tensor in STATE.items()}
    fill(Writer(entries_of(arrays), extras=first, name="model.pt"), tmp_path / "out", arrays)
    found = torch.load(tmp_path / "out" / "model.pt", weights_only=False)
    assert list(found) == [*PLAIN, "model", "args"]
    assert {key: found[key] for key in PLAIN} == PLAIN
    assert found["args"] == args
    assert list(found["model"]) == list(STATE)
    again = Reader(tmp_path / "out" / "model.pt")
    assert_reads(again, STATE)
    assert again.extras["args"].attributes == vars(args)
    assert {key: again.extras[key] for key in PLAIN} == PLAIN


@pytest.mark.filterwarnings("ignore:numpy.core is deprecated")
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", ">f4"])
def test_arrays_among_the_extras_come_back_and_open_in_numpy_too(tmp_path, dtype):
    arrays = [np.arange(-5, 7).reshape(3, 4).astype(dtype), np.zeros((0, 2), dtype), np.array(200, dtype)]
    arrays.append(arrays[0].T)
    fill(Writer(entries_of(ARRAYS), extras={"model": HERE, "counts": arrays}), tmp_path, ARRAYS)
    ours = Reader(tmp_path).extras["counts"]
    theirs = torch.load(tmp_path / "pytorch_model.bin", weights_only=False)["counts"]
    for wanted, *found in zip(arrays, ours, theirs, strict=True):
        for each in found:
            assert (each.shape, each.dtype) == (wanted.shape, wanted.dtype.newbyteorder("="))
            assert np.array_equal(each, wanted)


def test_each_half_goes_back_to_its_own_key(tmp_path):
    arrays = {"encoder.x": A.numpy(), "decoder.x": B.numpy()}
    fill(Writer(entries_of(arrays), extras={"encoder": HERE, "n": 1, "decoder": HERE}), tmp_path, arrays)
    assert_holds(Reader(tmp_path), arrays)
    assert list(torch.load(tmp_path / "pytorch_model.bin")) == ["encoder", "n", "decoder"]
    with pytest.raises(FormatError, match=r"^torch: 'other\.x' must begin with one of encoder, decoder, got another"):
        Writer([Entry("other.x", (1,), np.dtype("f4"))], extras={"encoder": HERE, "decoder": HERE})


def deep(levels: int) -> list:
    held: list = []
    for _ in range(levels):
        held = [held]
    return held


@pytest.mark.parametrize(
    ("extras", "told"),
    [
        (
            {"a": np.ones(2, "c8")},
            r"must be plain values, arrays of numbers, or a Namespace of them, got ndarray in 'a'$",
        ),
        ({"a": {"b": {1, 2}}}, r"got set in 'a'$"),
        ({"a": type("Odd", (Placeholder,), {"module": "os", "name": "system"})()}, r"<Placeholder os\.system> in 'a'$"),
        ({"a": deep(80)}, r"^torch: extras must be at most 64 deep, got more in 'a'$"),
        ({"a": 1 << 5000}, r"^torch: a whole number must have at most 255 bytes, got 626$"),
    ],
    ids=["array", "set", "object", "deep", "long"],
)
def test_extras_that_cannot_be_written_are_refused(extras, told):
    with pytest.raises(FormatError, match=told):
        Writer([], extras=extras)


def test_dtypes_and_names_that_torch_has_not_are_refused():
    with pytest.raises(FormatError, match=r"^torch: 'x' must have a dtype among float64, .*, got complex64$"):
        Writer([Entry("x", (1,), np.dtype("complex64"))])
    with pytest.raises(FormatError, match=r"^torch: shared names must be names for entries, got one for 'y'$"):
        Writer([Entry("x", (1,), np.dtype("float32"))], shared={"z": "y"})


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_originals_go_round(tmp_path, file):
    first = Reader(file)
    arrays = {name: first.read(name) for name in first if name not in first.shared}
    fill(Writer(entries_of(arrays), shared=first.shared, extras=first.extras, name=file.name), tmp_path, arrays)
    again, wanted = torch.load(tmp_path / file.name, weights_only=True), torch.load(file, weights_only=True)
    assert set(again) == set(wanted)
    assert all(bits(again[name]) == bits(wanted[name]) for name in wanted)
    assert Reader(tmp_path / file.name).shared == first.shared


# ----------------------------------------------------------------------------------------------------------- hostile


def put(folder: Path, number: int, content: bytes) -> Path:
    file = folder / f"{number}.pt"
    file.write_bytes(content)
    return file


@each_container
def test_damaged_files_raise_format_errors_only(tmp_path, legacy):
    held = {"model": {**STATE, "tied": A}, "args": argparse.Namespace(a=1), "n": [1, "x"]}
    content = saved(tmp_path / "good.pt", held, legacy).read_bytes()
    told = survive(
        "conversion.formats.torch_files:Reader",
        [put(tmp_path, number, each) for number, each in enumerate(damaged(content, 300))],
        tmp_path,
    )
    assert 10 < told.count("read") < 290
    cut = [put(tmp_path, length, content[:length]) for length in range(0, len(content) - 1, 41)]
    assert "read" not in survive("conversion.formats.torch_files:Reader", cut, tmp_path)


class Runs:
    """Unpickles to a call that leaves a trace."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def test_every_opcode_alone_and_after_others_does_nothing(tmp_path):
    """Opcodes with arguments of every kind, in pickles and inside of a zip: nothing runs, nothing else is raised."""
    trace = tmp_path / "ran"
    call = pickle.dumps(Runs(eval, f"open({str(trace)!r}, 'w')"), 2)[:-1]
    begin = [b"\x80\x02", call, b"\x80\x02}(X\x01\0\0\0aK\x01u", b"\x80\x02(K\x01K\x02cos\nsystem\n)"]
    arguments = [b"", b"\x01a", b"\x01\0\0\0a", b"\xff\xff\xff\x7f", b"os\nsystem\n", b"1\n", b"\x08" + b"\0" * 8]
    contents = [
        first + code.code.encode("latin1") + argument + last
        for code in pickletools.opcodes
        for first in begin
        for argument in arguments
        for last in (b".", b"R.")
    ]
    paths = [put(tmp_path, number, content) for number, content in enumerate(contents)]
    paths += [put(tmp_path, len(contents) + number, zipped(each)) for number, each in enumerate(contents[::9])]
    told = survive("conversion.formats.torch_files:Reader", paths, tmp_path)
    assert "read" not in told
    assert not trace.exists()


def zipped(body: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", body)
        archive.writestr("x/data/0", bytes(16))
    return file.getvalue()


def test_bombs_are_refused_within_little_memory(tmp_path):
    laughs: list = [{}]
    for _ in range(60):
        laughs.append({"a": laughs[-1], "b": laughs[-1]})
    loop: dict = {}
    loop["self"] = loop
    storage = torch.zeros(1).untyped_storage()
    wide = torch.tensor([], dtype=torch.uint8).set_(storage, 0, (1 << 20, 1 << 20), (0, 0))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + b"N" * (1 << 24) + b".")
    files = [
        saved(tmp_path / "laughs.pt", {"model": laughs[-1]}),
        saved(tmp_path / "loop.pt", {"model": loop}),
        saved(tmp_path / "deep.pt", {"model": nested(200)}),
        saved(tmp_path / "wide.pt", {"a": wide}),
        put(tmp_path, 1, packed.getvalue()),
    ]
    told = survive("conversion.formats.torch_files:Reader", files, tmp_path)
    assert "read" not in told
    assert all("at most 4000000 things 64 deep" in each for each in told[:3]), told


def nested(levels: int) -> dict:
    held: dict = {"w": A}
    for _ in range(levels):
        held = {"in": held}
    return held
