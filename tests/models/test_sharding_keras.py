"""Keras models that two devices hold together, on JAX, and copies of one on two devices, on TensorFlow."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import KERAS, XLM, assert_close

ROOT = Path(__file__).parents[2]
NAMES = ("TransfoXLLMHeadModel", "XLNetLMHeadModel", "XLMWithLMHeadModel", "XLMRobertaXLForMaskedLM")
FEW = ("TransfoXLLMHeadModel", "XLMRobertaXLForMaskedLM")


def found_on(backend: str, folder: Path) -> dict:
    """Have a process compute on one framework, and return what it found."""
    for name in (backend, "keras"):
        if importlib.util.find_spec(name) is None:  # found, not imported: Keras would start on TensorFlow
            pytest.skip(f"{name} is not installed")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.models.sharded_keras", backend, str(folder)]
    child = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert child.returncode == 0, child.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())


@pytest.fixture(scope="module")
def on_jax(tmp_path_factory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("jax")
    return found_on("jax", folder), folder


@pytest.fixture(scope="module")
def on_tensorflow(tmp_path_factory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("tensorflow")
    return found_on("tensorflow", folder), folder


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_is_dealt_out_computes_as_before(name, on_jax):
    found, folder = on_jax
    for way in ("shard_fully", "split") if name in FEW else ("split",):
        told = found[f"{name}-{way}"]
        assert_close(told["loss"][1], told["loss"][0], "equal")
        assert told["apart"] < 1e-5, "gradients"
        assert told["held"] < 0.75, "of all numbers, on one of two devices"
        for file in (folder / name).iterdir():
            assert (folder / f"{name}-{way}" / file.name).read_bytes() == file.read_bytes()


def test_fit_trains_a_model_that_is_dealt_out_as_before(on_jax):
    alone, both = on_jax[0]["fit"]
    assert_close(both, alone, "equal")
    assert alone[0] - alone[-1] > 0.1


@pytest.mark.parametrize("name", FEW)
def test_copies_on_two_devices_train_as_one_model(name, on_tensorflow):
    found, _ = on_tensorflow
    told = found[name]
    assert_close(told["both"], told["alone"], "equal")
    assert told["apart"] < 1e-5, "weights after training"
    assert told["alone"][0] - told["alone"][-1] > 0.1
    assert told["kept"], "what is saved comes back bit by bit"


def test_tensorflow_deals_nothing_out():
    model = KERAS.model(next(iter(XLM.values())))
    import keras

    from xl_tf.sharding import shard_fully, split
    from xlcore.errors import ConfigError

    if keras.backend.backend() == "jax":
        pytest.skip("Keras computes by JAX")
    mesh = keras.distribution.DeviceMesh((1, 1), ["batch", "model"], devices=np.array(["cpu:0"]))
    for way in (split, shard_fully):
        with pytest.raises(ConfigError, match=r"Keras must run on jax to deal out a model, got tensorflow; for"):
            way(model, mesh)
