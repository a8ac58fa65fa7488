"""A model that fairseq trained in parts: joined while it is read, cut while it is written, tensor by tensor."""

import os
import re
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from filled import assert_holds, entries_of, fill
from fuzz import survive, with_one_damaged
from hypothesis import given, settings
from hypothesis import strategies as draw

from conversion import writing
from conversion.formats import find_format, model_parts, open_reader
from conversion.formats.base import Entry
from conversion.formats.torch_files import HERE, Writer
from conversion.places import Places
from conversion.staging import staged
from conversion.writing import Made, Piece
from xlcore import FormatError
from xlcore.maps.fairseq import CUT

D, F, V = 8, 12, 20
BODY, LAYER = "encoder.sentence_encoder", "encoder.sentence_encoder.layers.0"
SHAPES = {
    f"{BODY}.embed_tokens.weight": (V, D),
    f"{BODY}.embed_positions.weight": (6, D),
    f"{LAYER}.self_attn.q_proj.weight": (D, D),
    f"{LAYER}.self_attn.q_proj.bias": (D,),
    f"{LAYER}.self_attn.k_proj.weight": (D, D),
    f"{LAYER}.self_attn.v_proj.bias": (D,),
    f"{LAYER}.self_attn.out_proj.weight": (D, D),
    f"{LAYER}.self_attn.out_proj.bias": (D,),
    f"{LAYER}.fc1.weight": (F, D),
    f"{LAYER}.fc1.bias": (F,),
    f"{LAYER}.fc2.weight": (D, F),
    f"{LAYER}.fc2.bias": (D,),
    f"{BODY}.layer_norm.weight": (D,),
    "encoder.lm_head.dense.weight": (D, D),
    "encoder.lm_head.dense.bias": (D,),
    "encoder.lm_head.bias": (V,),
    "classification_heads.mnli.dense.weight": (D, D),
    "classification_heads.mnli.out_proj.weight": (3, D),
}
# What is in every part as a whole (the rest is cut), and of that what is cut by columns.
WHOLE = ("embed_positions", "layer_norm", "out_proj.bias", "fc2.bias", "lm_head.bias", "mnli.out_proj")
COLUMNS = ("self_attn.out_proj.weight", "fc2.weight")
RNG = np.random.default_rng(0)
ARRAYS = {name: RNG.standard_normal(shape).astype("float32") for name, shape in SHAPES.items()}
TIE = {"encoder.lm_head.weight": f"{BODY}.embed_tokens.weight"}


def part_of(name, array, number, count, whole=WHOLE):
    """Return what part `number` of `count` has of a tensor."""
    if any(each in name for each in whole):
        return array
    axis = 1 if name.endswith(COLUMNS) else 0
    return np.ascontiguousarray(np.split(array, count, axis)[number])


def write(folder, count, name="model-model_part-{}.pt", whole=WHOLE, change=lambda number, arrays: None):
    """Write a model in parts, each with what lies beside its tensors."""
    for number in range(count):
        arrays = {each: part_of(each, array, number, count, whole) for each, array in ARRAYS.items()}
        change(number, arrays)
        file, extras = name.format(number), {"args": {"part": number}, "model": HERE}
        writer = Writer(entries_of(arrays), extras=extras, shared=TIE, name=file)
        fill(writer, folder / "made", arrays)
        (folder / "made" / file).rename(folder / file)
    (folder / "made").rmdir()
    return folder


JOINED = ARRAYS | {"encoder.lm_head.weight": ARRAYS[f"{BODY}.embed_tokens.weight"]}


@pytest.mark.parametrize("name", ["model-model_part-{}.pt", "checkpoint_best_part{}.pt"])
@pytest.mark.parametrize("count", [2, 4])
def test_parts_are_read_as_one(tmp_path, name, count):
    reader = open_reader(write(tmp_path, count, name))
    assert_holds(reader, JOINED)
    assert [file.name for file in reader.files] == [name.format(number) for number in range(count)]
    assert reader.shared == TIE
    assert reader.extras["args"] == {"part": 0}
    assert f"joined {count} parts of one model" in reader.notes
    assert_holds(open_reader(tmp_path / name.format(1)), JOINED)
    assert find_format(tmp_path) == "torch"


def test_the_first_map_of_a_head_may_be_whole_in_each_part(tmp_path):
    write(tmp_path, 2, whole=(*WHOLE, "dense"))
    assert_holds(open_reader(tmp_path), JOINED)


def test_every_rule_is_met():
    for pattern in CUT:
        assert any(re.fullmatch(pattern, name) for name in SHAPES), pattern
    whole = [name for name in SHAPES if not any(re.fullmatch(pattern, name) for pattern in CUT)]
    assert whole == [name for name in SHAPES if any(each in name for each in WHOLE)]


def test_one_part_alone_is_a_file_as_others(tmp_path):
    write(tmp_path, 1)
    assert_holds(open_reader(tmp_path), JOINED)


def test_a_missing_part_is_told(tmp_path):
    write(tmp_path, 4)
    (tmp_path / "model-model_part-2.pt").unlink()
    expected = r"parts of a model must be numbered from 0 without a gap, got 0, 1, 3$"
    for path in (tmp_path, tmp_path / "model-model_part-0.pt"):
        with pytest.raises(FormatError, match=expected):
            open_reader(path)


@pytest.mark.parametrize("other", ["model.pt", "checkpoint-model_part-0.pt", "checkpoint-model_part-1.pt"])
def test_parts_beside_another_model_are_no_answer(tmp_path, other):
    write(tmp_path, 2)
    (tmp_path / other).write_bytes((tmp_path / "model-model_part-0.pt").read_bytes())
    with pytest.raises(FormatError, match=r"must hold one checkpoint, got .*; give the path of one$"):
        open_reader(tmp_path)
    assert_holds(open_reader(tmp_path / "model-model_part-0.pt"), JOINED)


def test_what_is_whole_must_be_the_same_in_all_parts(tmp_path):
    name = f"{BODY}.layer_norm.weight"

    def change(number, arrays):
        arrays[name] = arrays[name] + number

    reader = open_reader(write(tmp_path, 2, change=change))
    with pytest.raises(FormatError, match=rf"part-1\.pt: '{name}' must be that of the first part, got other numbers$"):
        reader.read(name)


def test_parts_of_two_models_are_refused(tmp_path):
    name = f"{BODY}.layer_norm.weight"

    def change(number, arrays):
        if number:
            arrays["more"] = arrays.pop(name)

    with pytest.raises(FormatError, match=rf"part-1\.pt: a part must have the tensors of the others, got '{name}' in"):
        open_reader(write(tmp_path, 2, change=change))


@pytest.mark.parametrize("kind", ["shape", "dtype"])
def test_parts_that_do_not_fit_are_refused(tmp_path, kind):
    name = f"{LAYER}.fc1.weight"

    def change(number, arrays):
        if number:
            arrays[name] = arrays[name][:, 1:].copy() if kind == "shape" else arrays[name].astype("float16")

    got = rf"float32 \[{F // 2}, {D - 1}\]" if kind == "shape" else rf"float16 \[{F // 2}, {D}\]"
    wanted = rf"'{name}' must fit that of the first part, float32 \[{F // 2}, {D}\], got {got}$"
    with pytest.raises(FormatError, match=wanted):
        open_reader(write(tmp_path, 2, change=change))


def test_tensors_without_axes_are_an_error_of_their_own(tmp_path):
    """Whatever lies there under a name that is cut in honest files."""

    def change(number, arrays):
        for name in arrays:
            arrays[name] = np.array(float(number), "float32")

    reader = open_reader(write(tmp_path, 2, change=change))
    with pytest.raises(FormatError, match=r"must be that of the first part, got other numbers$"):
        reader.read(f"{BODY}.embed_tokens.weight")


# ---------------------------------------------------------------------------------------------------------- damage


def test_damaged_parts_raise_format_errors_only(tmp_path):
    write(tmp_path, 2)
    folders = with_one_damaged([tmp_path / f"model-model_part-{number}.pt" for number in range(2)], 120)
    told = survive("conversion.formats.model_parts:open_torch", folders, tmp_path)
    assert 5 < told.count("read") < 115


# ------------------------------------------------------------------------------------------------------- writing


def put(destination, arrays, count, *, stop="", **keys):
    """Write a model in parts, by the engine; stopped before a tensor as a kill would, if one is named."""

    def make(name):
        if name == stop:
            raise KeyboardInterrupt
        return Made(arrays[name], {f"our {name}": arrays[name]})

    extras = {"args": {"model_parallel_size": count}, "model": HERE}
    writer = model_parts.Writer(entries_of(arrays), extras=extras, shared=TIE, parts=count)
    pieces = [Piece(entry, lambda name=entry.name: make(name)) for entry in entries_of(arrays)]
    with staged(destination) as staging:
        written = writing.write(staging, writer, pieces, "mark", **keys)
        staging.finish()
    return written


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("count", [1, 2, 4])
def test_parts_that_are_written_read_as_the_whole(tmp_path, count):
    counted = []
    written = put(tmp_path / "out", ARRAYS, count, advance=counted.append)
    names = [f"model-model_part-{number}.pt" for number in range(count)]
    assert sorted(contents(tmp_path / "out")) == names
    reader = open_reader(tmp_path / "out")
    assert_holds(reader, JOINED)
    assert reader.shared == TIE
    assert reader.extras["args"] == {"model_parallel_size": count}
    assert sum(counted) == sum(array.nbytes for array in ARRAYS.values())  # what is in all parts counts once
    whole = put(tmp_path / "x", {name: array.T.copy().T for name, array in ARRAYS.items()}, count)
    assert whole.sha256 == written.sha256
    assert contents(tmp_path / "x") == contents(tmp_path / "out")  # however arrays lie in memory


def test_each_part_is_what_torch_reads(tmp_path):
    torch = pytest.importorskip("torch")
    put(tmp_path / "out", ARRAYS, 4)
    for number in range(4):
        held = torch.load(tmp_path / "out" / f"model-model_part-{number}.pt", weights_only=True)
        for name, array in ARRAYS.items():
            assert np.array_equal(held["model"][name].numpy(), part_of(name, array, number, 4)), name
        tied = [held["model"][name].data_ptr() for pair in TIE.items() for name in pair]
        assert tied[0] == tied[1]


@settings(max_examples=20, deadline=None)
@given(
    count=draw.integers(2, 5),
    sizes=draw.lists(draw.integers(0, 3), min_size=3, max_size=3),
    dtype=draw.sampled_from(["float32", "float16", ml_dtypes.bfloat16]),
    seed=draw.integers(0, 99),
)
def test_whatever_the_sizes_a_model_comes_back(count, sizes, dtype, seed):
    sizes = {D: (1 + sizes[0]) * count, F: sizes[1] * count, V: sizes[2] * count}
    rng = np.random.default_rng(seed)
    shapes = {name: tuple(sizes.get(size, size) for size in shape) for name, shape in SHAPES.items()}
    arrays = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        put(Path(folder) / "out", arrays, count)
        assert_holds(open_reader(Path(folder) / "out"), arrays | {name: arrays[first] for name, first in TIE.items()})


@pytest.mark.parametrize("stop", [f"{BODY}.embed_positions.weight", f"{LAYER}.fc2.weight", "encoder.lm_head.bias"])
def test_stopped_anywhere_it_goes_on_to_the_same_files(tmp_path, stop):
    put(tmp_path / "whole", ARRAYS, 2)
    with pytest.raises(KeyboardInterrupt):
        put(tmp_path / "out", ARRAYS, 2, stop=stop, batch=0)
    assert not (tmp_path / "out").exists()
    assert put(tmp_path / "out", ARRAYS, 2).resumed
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_part_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    usual = Places.write

    def write(self, name, *rest):
        if name.endswith("-1.pt"):
            raise OSError(28, "No space left on device")
        usual(self, name, *rest)

    monkeypatch.setattr(Places, "write", write)
    with pytest.raises(FormatError, match=r"out: the disk must have room for .*; nothing was written$"):
        put(tmp_path / "out", ARRAYS, 2)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "shape", "axis"),
    [(f"{LAYER}.fc2.weight", (8, 11), 1), (f"{LAYER}.fc1.bias", (7,), 0), (f"{BODY}.embed_tokens.weight", (9, 8), 0)],
)
def test_what_cannot_be_cut_evenly_is_named(name, shape, axis):
    what = rf"torch: '{name}' must have a multiple of 2 numbers along axis {axis} to be cut into 2 parts"
    with pytest.raises(FormatError, match=rf"^{what}, got {re.escape(str(list(shape)))}; choose another number of"):
        model_parts.Writer([Entry(name, shape, np.dtype("float32"))], parts=2)
