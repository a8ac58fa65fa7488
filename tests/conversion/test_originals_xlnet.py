"""What XLNet's authors and transformers wrote loads in both frameworks, and computes what it computed there."""

from pathlib import Path

import numpy as np
import pytest
from helpers import KERAS, TORCH
from safetensors.numpy import load_file

from conversion.source import open_source
from tests.conversion.converted import loaded

GOLDEN = Path(__file__).parents[1] / "golden"
PRETRAINED = [GOLDEN / "original" / name for name in ("xlnet_tf1-pretrain", "xlnet_tf1-pretrain_adam")]
CLASSIFIER, SQUAD = (GOLDEN / "original" / name for name in ("xlnet_tf1-classifier", "xlnet_tf1-squad"))
HF = sorted((GOLDEN / "hf_files").glob("*xlnet*"))
NEAR = 2e-5
SIDES = [TORCH, KERAS]


def assert_near(found, expected, what):
    assert found.shape == expected.shape, what
    assert np.abs(found - expected).max() < NEAR, what


def memories(output):
    return [value for name, value in sorted(output.items()) if name.startswith("mems.")]


def assert_memories(output, expected, prefix):
    found = memories(output)
    assert found
    for layer, states in enumerate(found):
        assert_near(states, expected[f"{prefix}new_mems_{layer}"], f"{prefix} {layer}")


def whole(array):
    return array.astype("int64")


# ------------------------------------------------------------------------------------------------------- pretraining


@pytest.mark.parametrize("run", ["pre", "pre_bidata", "pre_nomems"])
@pytest.mark.parametrize("folder", PRETRAINED, ids=lambda folder: folder.name)
@pytest.mark.parametrize("side", SIDES, ids=str)
def test_pretraining_computes_the_same(side, folder, run):
    model, expected = loaded(side, folder, bi_data=run == "pre_bidata"), load_file(folder / "expected.safetensors")
    assert (model.config.ff_activation, model.config.mem_len, model.config.reuse_len) == ("gelu_new", 5, 4)
    size = model.config.d_model
    memory = {} if run == "pre_nomems" else {"mems": [np.zeros((5, 2, size), "float32") for _ in range(2)]}
    for number in (0, 1) if memory else (0,):
        given = {key: expected[f"inputs/pre/seg{number}/{key}"] for key in ("perm_mask", "target_mapping")}
        words = {"input_ids": "input_k", "token_type_ids": "seg_id"}
        given |= {key: whole(expected[f"inputs/pre/seg{number}/{name}"]) for key, name in words.items()}
        output, prefix = side.run(model, given | memory), f"outputs/{run}/seg{number}/"
        assert_near(output["logits"].swapaxes(0, 1), expected[f"{prefix}lm_logits"], prefix)
        assert_memories(output, expected, prefix)
        memory = {"mems": memories(output)}


MASKED, ORDERED = ("seg_ids", "input_mask"), ("seg_ids", "input_mask", "perm_mask")
# What goes in beside the words, and the config of each run of the body.
FEATURES = {
    "feat": (MASKED, {}),
    "feat_plain": ((), {}),
    "feat_clamp": (MASKED, {"clamp_len": 3}),
    "feat_bidata": (MASKED, {"bi_data": True}),
    "feat_perm": (ORDERED, {}),
    "feat_permonly": (("seg_ids", "perm_mask"), {}),
    "uni": (MASKED, {"attn_type": "uni"}),
    "uni_plain": (("seg_ids",), {"attn_type": "uni"}),
}
NAMES = {"seg_ids": "token_type_ids", "input_mask": "input_mask", "perm_mask": "perm_mask"}


def features(expected, keys):
    """Return what goes in beside the words, batch first."""
    found = {NAMES[key]: np.moveaxis(expected[f"inputs/feat/{key}"], -1, 0) for key in keys}
    return {name: whole(value) if name == "token_type_ids" else value for name, value in found.items()}


@pytest.mark.parametrize("run", FEATURES)
@pytest.mark.parametrize("folder", PRETRAINED, ids=lambda folder: folder.name)
@pytest.mark.parametrize("side", SIDES, ids=str)
def test_the_body_computes_the_same(side, folder, run):
    keys, settings = FEATURES[run]
    model, expected = loaded(side, folder, "XLNetModel", **settings), load_file(folder / "expected.safetensors")
    given = {"input_ids": whole(expected["inputs/feat/seg0_input_ids"].T)} | features(expected, keys)
    found = side.run(model, given)["last_hidden_state"].swapaxes(0, 1)
    assert_near(found, expected[f"outputs/{run}/seg0/sequence_output"], run)


@pytest.mark.parametrize(
    ("run", "keys", "zeros", "settings"),
    [
        ("feat_mems", MASKED, 5, {"mem_len": 5, "reuse_len": None}),
        ("feat_mems_grow", MASKED, 0, {"mem_len": 11, "reuse_len": None}),
        ("feat_mems_reuse", MASKED, 5, {"mem_len": 5, "reuse_len": 3}),
        ("uni_mems_same_length", ("seg_ids",), 5, {"reuse_len": None, "attn_type": "uni", "same_length": True}),
    ],
)
@pytest.mark.parametrize("folder", PRETRAINED, ids=lambda folder: folder.name)
@pytest.mark.parametrize("side", SIDES, ids=str)
def test_memory_is_carried_as_there(side, folder, run, keys, zeros, settings):
    model, expected = loaded(side, folder, "XLNetModel", **settings), load_file(folder / "expected.safetensors")
    memory = [np.zeros((zeros, 2, model.config.d_model), "float32") for _ in range(2)]
    for number in (0, 1):
        given = {"input_ids": whole(expected[f"inputs/feat/seg{number}_input_ids"].T)} | features(expected, keys)
        given["mems"] = memory
        output, prefix = side.run(model, given), f"outputs/{run}/seg{number}/"
        assert_near(output["last_hidden_state"].swapaxes(0, 1), expected[f"{prefix}sequence_output"], prefix)
        assert_memories(output, expected, prefix)
        memory = memories(output)


# -------------------------------------------------------------------------------------------------------- fine-tuned


def texts(expected):
    return {
        "input_ids": whole(expected["inputs/input_ids"]),
        "token_type_ids": whole(expected["inputs/segment_ids"]),
        "input_mask": expected["inputs/input_mask"],
    }


@pytest.mark.parametrize(("summary", "prefix"), [("last", ""), ("first", "summary_first/"), ("mean", "summary_mean/")])
@pytest.mark.parametrize("side", SIDES, ids=str)
def test_the_classifier_computes_the_same(side, summary, prefix):
    model, expected = loaded(side, CLASSIFIER, summary_type=summary), load_file(CLASSIFIER / "expected.safetensors")
    output = side.run(model, texts(expected) | {"labels": whole(expected["inputs/label_ids"])})
    assert_near(output["logits"], expected[f"outputs/{prefix}logits"], summary)
    assert_near(output["loss"], expected[f"outputs/{prefix}total_loss"], summary)
    assert not memories(output)


@pytest.mark.parametrize("side", SIDES, ids=str)
def test_the_reader_of_answers_finds_the_same(side):
    model, expected = loaded(side, SQUAD), load_file(SQUAD / "expected.safetensors")
    given = texts(expected) | {"p_mask": expected["inputs/p_mask"], "cls_index": whole(expected["inputs/cls_index"])}
    output = side.run(model, given)
    for key in ("start_top", "end_top"):
        assert np.array_equal(output[f"{key}_index"], expected[f"outputs/eval/{key}_index"])
        found = np.log(output[f"{key}_log_probs"])  # probabilities, whatever the name says
        assert_near(found, expected[f"outputs/eval/{key}_log_probs"], key)
    assert_near(output["cls_logits"], expected["outputs/eval/cls_logits"], "cls_logits")


# ------------------------------------------------------------------------------------------------------ transformers


@pytest.mark.parametrize("folder", HF, ids=lambda folder: folder.name)
@pytest.mark.parametrize("side", SIDES, ids=str)
def test_transformers_computes_the_same(side, folder):
    model, expected = loaded(side, folder), load_file(folder / "expected.safetensors")
    given = {
        "input_ids": whole(expected["inputs/input_ids"]),
        "token_type_ids": whole(expected["inputs/token_type_ids"]),
        "attention_mask": expected["inputs/attention_mask"],
    }
    output = side.run(model, given)
    for name in ("logits", "start_logits", "end_logits"):
        if f"outputs/{name}" in expected:
            assert_near(output[name], expected[f"outputs/{name}"], name)
    for layer, states in enumerate(memories(output)):
        assert_near(states, expected[f"outputs/mems_{layer}"], layer)
    if "outputs/seg1/logits" in expected:
        words = {"input_ids": whole(expected["inputs/input_ids_seg1"]), "token_type_ids": given["token_type_ids"]}
        second = side.run(model, words | {"mems": memories(output)})
        assert_near(second["logits"], expected["outputs/seg1/logits"], "seg1")


@pytest.mark.parametrize("folder", [*PRETRAINED, CLASSIFIER, SQUAD, *HF], ids=lambda folder: folder.name)
def test_every_tensor_is_accounted_for_once(folder):
    source = open_source(folder)
    assert sorted(account.name for account in source.accounts) == sorted(source.reader)
    used = {name for account in source.accounts for name in account.into}
    implied = {name for name in source.entries if any(note.startswith(f"{name} is left out") for note in source.notes)}
    assert used | implied == source.family.params(source.config, source.head).keys()
    assert implied == ({"mask_embedding"} if folder in (CLASSIFIER, SQUAD) else set())


@pytest.mark.parametrize("side", SIDES, ids=str)
def test_a_head_that_the_authors_never_had_is_started_anew(side):
    """To be trained, on an original as it is."""
    name = "XLNetForTokenClassification"
    towers = getattr(side.towers, name if side is TORCH else f"TF{name}")
    with pytest.warns(UserWarning, match=r"lacks its head; newly initialised, train before use: classifier\.weight, "):
        model, info = towers.from_pretrained(PRETRAINED[0], output_loading_info=True)
    assert info.new_head_keys == ["classifier.weight", "classifier.bias"]
    assert not info.missing_keys
    wanted = open_source(PRETRAINED[0]).read("embedding.weight")
    assert np.array_equal(side.weights(model)["embedding.weight"], wanted)
