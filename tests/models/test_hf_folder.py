"""A folder as transformers 4.34.0 wrote it loads in both frameworks and gives the numbers that transformers gave."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

FOLDER = Path(__file__).parents[1] / "golden" / "hf_files" / "hf_pt-transfo_xl_safetensors"
ROOMS = {"torch": ("xl_torch", "TransfoXLLMHeadModel"), "keras": ("xl_tf", "TFTransfoXLLMHeadModel")}


@pytest.mark.parametrize("room", ROOMS)
def test_two_segments_and_the_losses(room):
    framework = pytest.importorskip(room)
    module, name = ROOMS[room]
    model = getattr(importlib.import_module(module), name).from_pretrained(FOLDER)
    expected = load_file(FOLDER / "expected.safetensors")
    turn = framework.as_tensor if room == "torch" else framework.ops.convert_to_tensor
    ids = [turn(expected[f"inputs/{key}"].astype("int64")) for key in ("input_ids", "input_ids_seg1")]

    def near(value, key):
        value = value.detach() if room == "torch" else value
        assert np.abs(np.asarray(value) - expected[f"outputs/{key}"]).max() < 2e-5, key

    first = model(ids[0])
    second = model(ids[1], mems=first.mems)
    for number, output in enumerate((first, second)):
        near(output.logits, f"seg{number}/logits")
        for layer, memory in enumerate(output.mems):
            near(memory, f"seg{number}/mems_{layer}")
    labelled = model(ids[0], labels=ids[0])
    near(labelled.loss, "labels_eq_inputs/loss")
    losses = np.sort(np.asarray(labelled.losses.detach() if room == "torch" else labelled.losses).ravel())
    assert np.abs(losses - np.sort(expected["outputs/labels_eq_inputs/losses"].ravel())).max() < 2e-5
