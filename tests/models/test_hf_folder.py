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


XLNET = FOLDER.with_name("hf_pt-xlnet_sharded_safetensors")
XLNET_ROOMS = {"torch": ("xl_torch", "XLNetLMHeadModel"), "keras": ("xl_tf", "TFXLNetLMHeadModel")}


@pytest.mark.parametrize("room", XLNET_ROOMS)
def test_xlnet_in_shards_with_one_stream_and_with_two(room):
    framework = pytest.importorskip(room)
    module, name = XLNET_ROOMS[room]
    model, info = getattr(importlib.import_module(module), name).from_pretrained(XLNET, output_loading_info=True)
    assert not any(vars(info).values())
    expected = load_file(XLNET / "expected.safetensors")
    turn = framework.as_tensor if room == "torch" else framework.ops.convert_to_tensor
    given = {key.removeprefix("inputs/"): turn(value) for key, value in expected.items() if key.startswith("inputs/")}

    def near(value, key):
        value = value.detach() if room == "torch" else value
        assert np.abs(np.asarray(value) - expected[f"outputs/{key}"]).max() < 2e-5, key

    first = model(**{key: given[key] for key in ("input_ids", "token_type_ids", "attention_mask")})
    near(first.logits, "logits")
    for layer, memory in enumerate(first.mems):
        near(memory, f"mems_{layer}")
    second = {key: given[key] for key in ("input_ids", "token_type_ids", "perm_mask", "target_mapping")}
    near(model(**second, mems=first.mems).logits, "twostream_mems/logits")


WORDS = {
    "hf_pt-xlm_safetensors": "XLMWithLMHeadModel",
    "hf_pt-xlm": "XLMWithLMHeadModel",
    "hf_pt-xlm_roberta_xl": "XLMRobertaXLForMaskedLM",
}


@pytest.mark.parametrize("folder", WORDS)
@pytest.mark.parametrize(("room", "module", "prefix"), [("torch", "xl_torch", ""), ("keras", "xl_tf", "TF")])
def test_xlm_of_one_language_and_of_two_and_xlm_roberta_xl(room, module, prefix, folder):
    framework = pytest.importorskip(room)
    path, model_class = FOLDER.with_name(folder), getattr(importlib.import_module(module), prefix + WORDS[folder])
    model, info = model_class.from_pretrained(path, output_loading_info=True)
    assert not any(vars(info).values())
    expected = load_file(path / "expected.safetensors")
    turn = framework.as_tensor if room == "torch" else framework.ops.convert_to_tensor
    given = {key.removeprefix("inputs/"): turn(value) for key, value in expected.items() if key.startswith("inputs/")}
    logits = model(**given).logits
    logits = logits.detach() if room == "torch" else logits
    assert np.abs(np.asarray(logits) - expected["outputs/logits"]).max() < 2e-5
