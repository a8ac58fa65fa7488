"""Models that several processes hold together compute and are saved as one that a single process holds (PyTorch)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import TORCH, assert_close, random_weights
from xlcore import FAMILIES
from xlcore.plans import WHOLE, Split, plan

pytest.importorskip("torch")
distributed = pytest.importorskip("torch.distributed")
if not distributed.is_available() or not distributed.is_gloo_available():
    pytest.skip("torch was built without gloo", allow_module_level=True)

from tests.models.sharded import NAMES, WAYS, batch, case_of  # noqa: E402

ROOT = Path(__file__).parents[2]
RANKS = (0, 1)


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """Return where two processes have written what they found, once for all tests."""
    folder = tmp_path_factory.mktemp("sharded")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.models.sharded", str(rank), "2", str(folder)],
            cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for rank in RANKS
    ]  # fmt: skip
    try:
        for child in children:
            _, words = child.communicate(timeout=180)
            assert child.returncode == 0, words[-3000:]
    finally:
        for child in children:
            child.kill()
            child.wait()
    return folder


def found(folder: Path, rank: int) -> dict:
    return json.loads((folder / f"{rank}.json").read_text())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_are_those_of_one_process(name, way, shared):
    case, config = case_of(name)
    model = TORCH.model(case, config)
    output, gradients = TORCH.both(model, batch(config))
    assert max(np.abs(value).max() for value in gradients.values()) > 1e-3
    for rank in RANKS:
        mine = found(shared, rank)[f"{name}-{way}"]
        assert_close(mine["loss"], output["loss"], "equal")
        assert_close(mine["again"], output["loss"], "equal")
        with np.load(shared / f"{name}-{way}-{rank}.npz") as arrays:
            assert len(arrays) > 20
            for key, value in arrays.items():
                assert_close(value, gradients[key], "golden", f"{name} {way} {key}")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_the_folder_is_the_one_that_one_process_writes(name, way, shared, tmp_path):
    case, config = case_of(name)
    TORCH.model(case, config).save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    for file in tmp_path.iterdir():
        assert (shared / f"{name}-{way}" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_each_process_holds_its_part(name, shared):
    case, config = case_of(name)
    total = sum(value.size for value in random_weights(case, config).values())
    cut = plan(case.family.params(config, case.head))
    layers = {"output", "input", "heads"}
    split = sum(p.size for key, p in random_weights(case, config).items() if cut[key].role in layers)
    assert split > total / 3
    for rank in RANKS:
        mine = found(shared, rank)
        assert mine[f"{name}-split"]["held"] == total - split / 2
    both = sum(found(shared, rank)[f"{name}-shard_fully"]["held"] for rank in RANKS)
    assert both == total


def test_what_cannot_be_dealt_out_is_refused(shared):
    for rank in RANKS:
        even = "must be a multiple of the 2 devices, got"
        assert found(shared, rank)["refused"] == {
            "XLMRobertaXLForMaskedLM split": f"XLMRobertaXLForMaskedLM: num_heads {even} 3",
            "XLMWithLMHeadModel split": f"XLMWithLMHeadModel: heads of layer 1 {even} 3",
            "TransfoXLLMHeadModel split": f"TransfoXLLMHeadModel: feed_forward_size {even} 21",
            "TransfoXLLMHeadModel shard_fully": (
                "TransfoXLLMHeadModel: untie_r must be true to deal out layers, got false"
            ),
        }


# ---------------------------------------------------------------------------------------------------- plans as data


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_the_plan_covers_all_weights_of_layers(family):
    for keys in family.examples.values():
        config = family.config(**keys)
        for head in family.heads:
            params = family.params(config, head)
            for name, split in plan(params).items():
                assert split.axis is None or split.axis < len(params[name].shape), name
                if name.startswith("blocks.") and params[name].kind == "linear" and name.endswith("weight"):
                    assert split.role in ("output", "input"), name
                if params[name].kind == "norm":
                    assert split == WHOLE
                if config.vocab_size in params[name].shape[:1]:
                    assert split == Split("vocabulary", 0), name


def test_the_plan_of_a_layer_is_that_of_the_paper():
    case, config = case_of("XLMRobertaXLForMaskedLM")
    found = plan(case.family.params(config, case.head))
    layer = {name.removeprefix("blocks.0."): (each.role, each.axis) for name, each in found.items() if "s.0." in name}
    outputs = [f"attention.{part}.{kind}" for part in ("query", "key", "value") for kind in ("weight", "bias")]
    outputs += ["feed_forward.inner.weight", "feed_forward.inner.bias"]
    expected = dict.fromkeys(layer, ("whole", None)) | dict.fromkeys(outputs, ("output", 0))
    expected |= dict.fromkeys(["attention.out.weight", "feed_forward.outer.weight"], ("input", 1))
    assert layer == expected
    assert found["lm_head.bias"] == found["embedding.weight"] == Split("vocabulary", 0)
    assert found["embedding_of_positions.weight"] == found["transform.inner.weight"] == WHOLE
