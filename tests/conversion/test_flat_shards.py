"""What fully sharded training saves: runs of parameters, cut into shards, are read as the model that they make."""

import argparse
import copy
import re
import shutil

import ml_dtypes
import numpy as np
import pytest
from filled import assert_holds, entries_of, fill
from fuzz import survive, with_one_damaged
from hypothesis import given, settings
from hypothesis import strategies as draw

from conversion.convert import convert, plan
from conversion.formats import find_format, open_reader
from conversion.formats.torch_files import HERE, Reader, Writer
from tests.conversion.converted import converted
from tests.conversion.models import ORIGINAL
from xlcore import FormatError

BODY = "encoder.sentence_encoder"
TABLE, TIED, VERSION = f"{BODY}.embed_tokens.weight", "encoder.lm_head.weight", f"{BODY}.version"
LAYERS = [f"{BODY}.layers.{number}" for number in (0, 1)]
RNG = np.random.default_rng(0)
ARRAYS = {
    TABLE: RNG.standard_normal((7, 3)).astype("float32"),
    "encoder.lm_head.bias": RNG.standard_normal(7).astype("float32"),
    **{f"{layer}.fc1.weight": RNG.standard_normal((5, 3)).astype("float32") for layer in LAYERS},
    **{f"{layer}.fc1.bias": RNG.standard_normal(5).astype("float32") for layer in LAYERS},
}
WHOLE = {VERSION: np.array([3.0], "float32")}
JOINED = {**ARRAYS, **WHOLE, TIED: ARRAYS[TABLE]}


def sharded(arrays, count, flat=True, tied=((TABLE, TIED),), size=lambda shape: shape):
    """Cut tensors as fairscale does, a run for each layer, one for the rest; return tensors and facts of each shard."""
    shards = [({}, {"param_metadata": [], "buffer_names": list(WHOLE)}) for _ in range(count)]
    for unit in ("", *LAYERS):
        own = [name for name in arrays if next((each for each in LAYERS if name.startswith(f"{each}.")), "") == unit]
        held = {name.removeprefix(f"{unit}."): arrays[name] for name in own}
        runs = {"flat_param_0": held} if flat else {name: {name: array} for name, array in held.items()}
        facts = {"fsdp_path": unit, "params": {}, "no_broadcast_optim_state": False}
        facts["shared_param_info"] = list(tied) if not unit else []
        for _, told in shards:
            told["param_metadata"].append(copy.deepcopy(facts))
        for run, inside in runs.items():
            numbers = np.concatenate([array.reshape(-1) for array in inside.values()])
            long = -(-len(numbers) // count)
            for number, (tensors, told) in enumerate(shards):
                cut = numbers[number * long : (number + 1) * long]
                shapes = [size(array.shape) for array in inside.values()]
                sizes = [array.size for array in inside.values()]
                told["param_metadata"][-1]["params"][run] = {
                    "names": list(inside), "shapes": shapes, "numels": sizes, "padding": long - len(cut)
                }  # fmt: skip
                tensors[f"{unit}.{run}" if unit else run] = np.pad(cut, (0, long - len(cut)))
    return [({**tensors, **WHOLE}, told) for tensors, told in shards]


def write(folder, shards, name="model-shard{}.pt"):
    """Write shards, each as a file of its own."""
    for number, (tensors, told) in enumerate(shards):
        file = name.format(number)
        extras = {"args": None, "model": HERE} | ({"fsdp_metadata": told} if told is not None else {})
        fill(Writer(entries_of(tensors), extras=extras, name=file), folder / "made", tensors)
        (folder / "made" / file).rename(folder / file)
    (folder / "made").rmdir()
    return folder


@pytest.mark.parametrize("name", ["model-shard{}.pt", "checkpoint_last-shard{}.pt"])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shards_are_read_as_one(tmp_path, name, count):
    reader = open_reader(write(tmp_path, sharded(ARRAYS, count), name))
    assert_holds(reader, JOINED)
    assert [file.name for file in reader.files] == [name.format(number) for number in range(count)]
    assert reader.shared == {TIED: TABLE}
    assert f"joined {count} shards of one model" in reader.notes
    assert_holds(open_reader(tmp_path / name.format(count - 1)), JOINED)
    assert find_format(tmp_path) == "torch"


def test_tensors_that_are_runs_of_their_own_are_read(tmp_path):
    assert_holds(open_reader(write(tmp_path, sharded(ARRAYS, 2, flat=False))), JOINED)


@settings(max_examples=25, deadline=None)
@given(
    count=draw.integers(1, 6),
    sizes=draw.lists(draw.integers(1, 4), min_size=3, max_size=3),
    dtype=draw.sampled_from(["float32", "float16", ml_dtypes.bfloat16]),
)
def test_whatever_the_sizes_all_comes_back(tmp_path_factory, count, sizes, dtype):
    turned = dict(zip((7, 5, 3), sizes, strict=True))
    rng = np.random.default_rng(count)
    arrays = {
        name: rng.standard_normal(tuple(turned[size] for size in array.shape)).astype(dtype)
        for name, array in ARRAYS.items()
    }
    folder = tmp_path_factory.mktemp("shards")
    assert_holds(open_reader(write(folder, sharded(arrays, count))), {**arrays, **WHOLE, TIED: arrays[TABLE]})
    shutil.rmtree(folder)


def test_what_torch_saves_of_fairscale_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    for number, (tensors, told) in enumerate(sharded(ARRAYS, 2, size=torch.Size)):
        state = {name: torch.from_numpy(array) for name, array in tensors.items()}
        held = {"args": argparse.Namespace(a=1), "model": state, "fsdp_metadata": told}
        torch.save(held, tmp_path / f"model-shard{number}.pt")
    assert_holds(open_reader(tmp_path), JOINED)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_run_is_read_in_pieces_however_it_lies(tmp_path, legacy):
    torch = pytest.importorskip("torch")
    held = {"plain": torch.arange(9.0), "apart": torch.arange(18.0)[::2], "array": np.arange(9.0)}
    torch.save({"model": held}, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    reader = Reader(tmp_path / "x.pt")
    for name in held:
        for start, count in ((0, 9), (2, 4), (8, 1), (3, 0)):
            found = reader.read_run(name, start, count)
            assert found.tolist() == reader.read(name)[start : start + count].tolist(), name


def test_a_model_in_shards_converts(tmp_path):
    folder = ORIGINAL / "xlmr_xl_fairseq-mlm_args"
    reader = open_reader(folder)
    (tmp_path / "shards").mkdir()
    whole = {name: reader.read(name) for name in reader if name not in (TIED, VERSION)}
    for number, (tensors, told) in enumerate(sharded(whole, 3)):
        file = f"model-shard{number}.pt"
        extras = {"args": reader.extras["args"], "model": HERE, "fsdp_metadata": told}
        fill(Writer(entries_of(tensors), extras=extras, name=file), tmp_path / "made", tensors)
        (tmp_path / "made" / file).rename(tmp_path / "shards" / file)
    shutil.copy(folder / "sentencepiece.bpe.model", tmp_path / "shards")
    convert(plan(tmp_path / "shards", tmp_path / "out"))
    one, other = (each / "model.safetensors" for each in (converted(folder), tmp_path / "out"))
    assert one.read_bytes() == other.read_bytes()


# ------------------------------------------------------------------------------------------------ what is no model


def assert_refused(folder, change, message, count=2):
    shards = sharded(ARRAYS, count)
    change(shards)
    with pytest.raises(FormatError, match=message):
        open_reader(write(folder, shards))


def test_a_missing_shard_is_told(tmp_path):
    write(tmp_path, sharded(ARRAYS, 3))
    (tmp_path / "model-shard1.pt").unlink()
    with pytest.raises(FormatError, match=r"shards of a model must be numbered from 0 without a gap, got 0, 2$"):
        open_reader(tmp_path)
    shutil.move(tmp_path / "model-shard2.pt", tmp_path / "model-shard1.pt")
    with pytest.raises(
        FormatError, match=r"all shards must hold 28 numbers of 'flat_param_0', got 1\d; is a shard miss"
    ):
        open_reader(tmp_path)


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda run, unit: run.update(padding=99), r"the padding of 'flat_param_0' must be 0 to 14, got 99"),
        (
            lambda run, unit: run.update(padding="1"),
            r"fsdp_metadata must tell 'padding', as fairscale 0.4 does, got str",
        ),
        (lambda run, unit: run.update(shapes=[]), r"must tell a shape for each of 2 names in 'flat_param_0', got 0"),
        (lambda run, unit: run.update(shapes=["x", (7,)]), r"fsdp_metadata must tell shapes, got 'x'"),
        (lambda run, unit: run.update(shapes=[(0, 1 << 60), (7,)]), r"must tell shapes that memory can hold, got \[0"),
        (
            lambda run, unit: run.update(shapes=[(7, 4), (7,)]),
            r"all shards must hold 35 numbers of 'flat_param_0', got 28",
        ),
        (
            lambda run, unit: run["names"].__setitem__(0, f"{LAYERS[0]}.fc1.bias"),
            r"'.*fc1.bias' must lie in one run, got",
        ),
        (
            lambda run, unit: unit.update(no_broadcast_optim_state=True),
            r"must hold a part of .*, got experts of its own",
        ),
        (lambda run, unit: unit.update(shared_param_info=["x"]), r"must tell shared tensors in pairs, got 'x'"),
        (
            lambda run, unit: unit.pop("shared_param_info"),
            r"must tell 'shared_param_info', as fairscale .*, got NoneType",
        ),
        (
            lambda run, unit: unit["params"].update(more=run),
            r"'more' must be there, as fsdp_metadata tells, got a file wi",
        ),
    ],
)
def test_what_is_told_must_fit(tmp_path, change, got):
    def both(shards):
        for _, told in shards:
            unit = told["param_metadata"][0]
            change(unit["params"]["flat_param_0"], unit)

    assert_refused(tmp_path, both, rf"model-shard[01]\.pt: .*{got}")


def test_shards_of_two_models_are_refused(tmp_path):
    def rename(shards):
        shards[1][1]["param_metadata"][1]["params"]["flat_param_0"]["names"][0] = "fc3.weight"

    assert_refused(tmp_path, rename, r"model-shard1\.pt: a shard must hold the tensors of the first, got others$")


@pytest.mark.parametrize("kind", ["dtype", "shape"])
def test_runs_that_are_none_are_refused(tmp_path, kind):
    def spoil(shards):
        run = shards[1][0]["flat_param_0"]
        shards[1][0]["flat_param_0"] = run.astype("float64") if kind == "dtype" else run[None].copy()

    got = r"float64 \[14\]" if kind == "dtype" else r"float32 \[1, 14\]"
    assert_refused(
        tmp_path, spoil, rf"1\.pt: 'flat_param_0' must be a run of numbers, of one dtype in all .*, got {got}$"
    )


def test_tensors_that_nobody_tells_of_are_refused(tmp_path):
    def add(shards):
        for tensors, _ in shards:
            tensors["more"] = np.ones(3, "float32")

    assert_refused(tmp_path, add, r"fsdp_metadata must tell of every tensor, got 'more' besides$")


NOBODY = r"got a shard of fully sharded training \(FSDP\); join the shards by fairscale's consolidate_shard_weights$"


def test_runs_that_nobody_tells_of_are_refused(tmp_path):
    write(tmp_path, [(tensors, None) for tensors, _ in sharded(ARRAYS, 2)])
    for path in (tmp_path, tmp_path / "model-shard0.pt"):
        with pytest.raises(
            FormatError, match=rf"^{re.escape(str(path))}: a model must be whole, in parts, or .*{NOBODY}"
        ):
            open_reader(path)


def test_one_shard_under_another_name_is_refused(tmp_path):
    write(tmp_path, sharded(ARRAYS, 1), "model{}.pt")
    with pytest.raises(FormatError, match=NOBODY):
        open_reader(tmp_path)


def test_shards_of_parts_are_refused(tmp_path):
    write(tmp_path, sharded(ARRAYS, 2), "model-model_part-0-shard{}.pt")
    with pytest.raises(FormatError, match=NOBODY):
        open_reader(tmp_path)


def test_what_is_saved_whole_is_read(tmp_path):
    write(tmp_path, [(JOINED, {"param_metadata": []})], "model.pt")
    assert_holds(open_reader(tmp_path), JOINED)


def test_models_that_are_called_as_shards_are_read(tmp_path):
    for name in ("one-shard{}.pt", "two-shard{}.pt"):
        write(tmp_path, [(ARRAYS, None)], name)
    assert_holds(open_reader(tmp_path / "two-shard0.pt"), ARRAYS)
    with pytest.raises(FormatError, match=r"must hold one checkpoint, got .*; give the path of one$"):
        open_reader(tmp_path)


def test_damaged_shards_raise_format_errors_only(tmp_path):
    write(tmp_path, sharded(ARRAYS, 2))
    folders = with_one_damaged([tmp_path / f"model-shard{number}.pt" for number in range(2)], 120)
    told = survive("conversion.formats.model_parts:open_torch", folders, tmp_path)
    assert 5 < told.count("read") < 115
