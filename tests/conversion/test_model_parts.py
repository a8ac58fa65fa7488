"""A model that fairseq trained in parts: joined while it is read, tensor by tensor."""

import re

import numpy as np
import pytest
from filled import assert_holds, entries_of, fill
from fuzz import damaged, survive

from conversion.formats import find_format, open_reader
from conversion.formats.torch_files import HERE, Writer
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


def test_damaged_parts_raise_format_errors_only(tmp_path):
    write(tmp_path, 2)
    first, second = (tmp_path / f"model-model_part-{number}.pt" for number in range(2))
    folders = []
    for number, content in enumerate(damaged(second.read_bytes(), 120)):
        folders.append(tmp_path / str(number))
        folders[-1].mkdir()
        (folders[-1] / first.name).hardlink_to(first)
        (folders[-1] / second.name).write_bytes(content)
    told = survive("conversion.formats.model_parts:open_torch", folders, tmp_path)
    assert 5 < told.count("read") < 115
