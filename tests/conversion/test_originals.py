"""What the authors' code and transformers wrote loads in both frameworks, and computes what it computed there."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import KERAS, TORCH
from safetensors.numpy import load_file

from conversion.source import open_source
from tests.conversion.converted import loaded
from xlcore.errors import FormatError

GOLDEN = Path(__file__).parents[1] / "golden"
ORIGINAL, HF_FILES = GOLDEN / "original", GOLDEN / "hf_files"
NEAR = 2e-5
SIDES = [TORCH, KERAS]
TF1 = sorted(ORIGINAL.glob("transfo_xl_tf1-*"))
PYTORCH = sorted(ORIGINAL.glob("transfo_xl_torch-*"))
HF = sorted(HF_FILES.glob("*transfo_xl*"))
# What the runs of NOTE.md change.
RUNS = {
    "plain": {},
    "clamp": {"clamp_len": 3},
    "same_length": {"same_length": True},
    "evalflags": {"clamp_len": 3, "same_length": True},
}


def segments(expected):
    """Return for each segment the words, and the words with the one that follows, both [batch, length]."""
    found = []
    for number in (0, 1):
        if f"inputs/seg{number}_inp" in expected:
            words, following = (expected[f"inputs/seg{number}_{key}"] for key in ("inp", "tgt"))
        else:
            words, following = (expected[f"inputs/seg{number}_{key}"].T for key in ("data", "target"))
        words, following = words.astype("int64"), following.astype("int64")
        found.append({"input_ids": words, "labels": np.concatenate([words[:, :1], following], 1)})
    return found


def assert_near(found, expected, what):
    assert found.shape == expected.shape, what
    assert np.abs(found - expected).max() < NEAR, what


def assert_runs_as(side, model, expected, run):
    """Run both segments, the second with the memory of the first, and compare what the original returned."""
    memory, checked = {}, 0
    for number, segment in enumerate(segments(expected)):
        prefix = f"outputs/{run}/seg{number}_"
        if f"{prefix}loss" not in expected:
            continue
        output = side.run(model, segment | memory)
        assert_near(output["losses"].T, expected[f"{prefix}loss"], f"{prefix}loss")
        layers = [output[f"mems.{layer}"] for layer in range(model.config.n_layer) if f"mems.{layer}" in output]
        for layer, states in enumerate(layers):
            assert_near(states, expected[f"{prefix}new_mems_{layer}"], f"{prefix}mems {layer}")
        memory = {"mems": layers} if layers else {}
        checked += 1
    assert checked


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("folder", TF1, ids=lambda folder: folder.name)
@pytest.mark.parametrize("side", SIDES, ids=str)
def test_the_authors_tensorflow_computes_the_same(side, folder, run):
    model = loaded(side, folder, **RUNS[run])
    assert (model.config.window_rule, model.config.layer_norm_epsilon) == ("tf1", 1e-12)
    assert_runs_as(side, model, load_file(folder / "expected.safetensors"), run)


@pytest.mark.parametrize("folder", TF1, ids=lambda folder: folder.name)
@pytest.mark.parametrize("side", SIDES, ids=str)
def test_the_authors_tensorflow_without_memory(side, folder):
    """Without memory the authors' code returns the whole segment: an empty memory as long as the segment."""
    model = loaded(side, folder, initial_memory="empty", mem_len=7)
    assert_runs_as(side, model, load_file(folder / "expected.safetensors"), "nomem")


@pytest.mark.parametrize("run", [*RUNS, "nomem"])
@pytest.mark.parametrize("folder", PYTORCH, ids=lambda folder: folder.name)
@pytest.mark.parametrize("side", SIDES, ids=str)
def test_the_authors_pytorch_computes_the_same(side, folder, run):
    model = loaded(side, folder, **RUNS.get(run, {"mem_len": 0}))
    assert (model.config.initial_memory, model.config.untie_r) == ("empty", False)
    expected = load_file(folder / "expected.safetensors")
    assert_runs_as(side, model, expected, run)
    hidden = side.run(model, {"input_ids": segments(expected)[0]["input_ids"], "output_hidden_states": True})
    assert_near(
        hidden[f"hidden_states.{model.config.n_layer}"].swapaxes(0, 1), expected[f"outputs/{run}/seg0_hidden"], run
    )


@pytest.mark.parametrize("folder", HF, ids=lambda folder: folder.name)
@pytest.mark.parametrize("side", SIDES, ids=str)
def test_transformers_computes_the_same(side, folder):
    model, expected = loaded(side, folder), load_file(folder / "expected.safetensors")
    assert model.config.architectures == [type(model).__name__.removeprefix("TF")]
    memory = {}
    for number, key in enumerate(("input_ids", "input_ids_seg1")):
        words = expected[f"inputs/{key}"].astype("int64")
        output = side.run(model, {"input_ids": words} | memory)
        assert_near(output["prediction_scores"], expected[f"outputs/seg{number}/logits"], f"seg{number}")
        memory = {"mems": [output[f"mems.{layer}"] for layer in range(model.config.n_layer)]}
        for layer, states in enumerate(memory["mems"]):
            assert_near(states, expected[f"outputs/seg{number}/mems_{layer}"], f"seg{number} {layer}")


# ------------------------------------------------------------------------------------------------- what was found

ALL = [*TF1, *PYTORCH, *HF]


def listed(folder):
    """Return the tensors that NOTE.md's companion lists: what the original itself saw in the file, and their shapes."""
    lines = (line.rsplit(" [", 1) for line in (folder / "variables.txt").read_text().splitlines())
    return {name: tuple(json.loads(f"[{shape}")) for name, shape in lines}


@pytest.mark.parametrize("folder", ALL, ids=lambda folder: folder.name)
def test_every_tensor_is_accounted_for_once(folder):
    source = open_source(folder)
    names = [account.name for account in source.accounts]
    assert len(set(names)) == len(names)
    assert set(names) == {*source.reader, *source.reader.aside}
    for account in source.accounts:
        assert bool(account.into) == (account.fate != "ignored")
        assert bool(account.reason) == (account.fate in ("ignored", "tied"))
        assert set(account.into) <= source.entries.keys()
    used = {name for account in source.accounts for name in account.into}
    implied = {name for name in source.entries if any(note.startswith(f"{name} is left out") for note in source.notes)}
    assert used | implied == source.entries.keys() == source.family.params(source.config, source.head).keys()
    if folder.name != "hf_pt-transfo_xl_safetensors":  # there `variables.txt` lists the model's, copies too
        assert {account.name: account.entry.shape for account in source.accounts} == listed(folder)


def test_a_single_file_is_opened_with_what_lies_beside_it():
    whole = open_source(PYTORCH[0])
    single = open_source(PYTORCH[0] / "model.pt")
    assert single.config == whole.config
    assert single.notes == [note for note in whole.notes if not note.startswith("took ")]  # from among what lay there


def test_a_prefix_is_opened_with_what_lies_beside_it():
    assert open_source(TF1[0] / "model.ckpt").config == open_source(TF1[0]).config


def test_what_is_no_checkpoint_is_refused():
    with pytest.raises(FormatError):
        open_source(TF1[0] / "flags.json")
