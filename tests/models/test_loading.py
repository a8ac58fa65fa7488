"""Loading: in which dtype, in which order, in how much memory; for what, see `tests/conversion/test_checkpoint.py`."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from conversion import checkpoint
from tests.helpers import KERAS, ROBERTA, TORCH, each_side, random_weights
from xlcore.errors import ConfigError, WeightError

ROOT = Path(__file__).parents[2]
CASE = ROBERTA["masked_lm"]
WEIGHTS = "model.safetensors"


def saved(folder: Path, dtype: str = "bfloat16", **keys) -> dict[str, np.ndarray]:
    """Write a model of random weights without any framework; return the weights."""
    config = CASE.config(**keys)
    arrays = {name: value.astype(dtype) for name, value in random_weights(CASE, config).items()}
    read = {name: lambda value=value: value for name, value in arrays.items()}
    checkpoint.save(folder, config, CASE.head, read, {name: value.dtype for name, value in arrays.items()})
    return arrays


def dtypes_of(side, model) -> set[str]:
    return {str(value.dtype).removeprefix("torch.") for value in model.canonical_parameters().values()}


@each_side
def test_the_dtype_may_be_that_of_the_file_or_named(side, tmp_path):
    weights = saved(tmp_path / "model")
    load = side.model_class(CASE).from_pretrained
    for given, found in (("auto", "bfloat16"), (None, "float32"), ("float16", "float16"), ("bfloat16", "bfloat16")):
        model = load(tmp_path / "model", dtype=given)
        assert dtypes_of(side, model) == {found}, given
        for name, value in side.weights(model).items():
            np.testing.assert_array_equal(value.astype("float32"), weights[name].astype(found).astype("float32"))
    if side is TORCH:
        import torch

        assert torch.get_default_dtype() is torch.float32
        assert dtypes_of(side, load(tmp_path / "model", dtype=torch.float64)) == {"float64"}


@pytest.mark.parametrize("dtype", ["int8", "nonsense", "float8_e4m3fn", 16])
def test_a_dtype_in_which_nothing_computes_is_refused(dtype, tmp_path):
    saved(tmp_path / "model")
    message = r"dtype must be 'auto' or one of bfloat16, float16, float32, float64, got "
    with pytest.raises(ConfigError, match=message + repr(dtype)):
        TORCH.model_class(CASE).from_pretrained(tmp_path / "model", dtype=dtype)


@each_side
def test_a_file_in_which_nothing_computes_needs_a_dtype(side, tmp_path):
    saved(tmp_path / "model", "float32")
    file = tmp_path / "model" / WEIGHTS
    arrays = safetensors.numpy.load_file(file)
    small = {name: value.astype(ml_dtypes.float8_e5m2) for name, value in arrays.items()}
    safetensors.numpy.save_file(small, file, {"format": "pt"})
    load = side.model_class(CASE).from_pretrained
    with pytest.raises(WeightError, match=r"dtype must be given for a file of float8_e5m2, .* got 'auto'"):
        load(tmp_path / "model", dtype="auto")
    assert dtypes_of(side, load(tmp_path / "model", dtype="float32")) == {"float32"}


def test_the_largest_tensors_are_read_first(tmp_path):
    saved(tmp_path / "model", tie_word_embeddings=False, vocab_size=301)
    config = checkpoint.read_config(tmp_path / "model")
    sizes = [array.size for _, array in checkpoint.Checkpoint(tmp_path / "model", config, CASE.head).tensors()]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == sizes[1] == 301 * 12


def test_variables_of_a_load_that_fails_are_forgotten(tmp_path):
    """Keras fills variables that have no value at the next chance: those of a model that nobody has must be none."""
    model = KERAS.model_class(CASE)
    import keras
    from keras.src.backend.common import global_state

    saved(tmp_path / "model")
    file = tmp_path / "model" / WEIGHTS
    arrays = safetensors.numpy.load_file(file)
    arrays["lm_head.bias"] = arrays["lm_head.bias"] * np.float32("nan").astype("bfloat16")
    safetensors.numpy.save_file(arrays, file, {"format": "pt"})
    with pytest.raises(WeightError, match="must be finite"):
        model.from_pretrained(tmp_path / "model")
    assert not global_state.get_global_attribute("uninitialized_variables")
    with keras.StatelessScope():
        pass


MEASURE = """
    import gc, importlib, json, sys
    def status(key):
        lines = open("/proc/self/status").read().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
    module, name, small, big = sys.argv[1:]
    model = getattr(importlib.import_module(module), name)
    model.from_pretrained(small)  # what a framework takes at its first use
    before, found = status("VmRSS"), {}
    for dtype in ("auto", "float32"):
        loaded = model.from_pretrained(big, dtype=dtype)
        found[dtype] = status("VmHWM") - before
        del loaded
        gc.collect()
    print(json.dumps(found))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells how much memory was in use")
@each_side
def test_loading_takes_the_weights_and_a_tensor_also_in_another_dtype(side, tmp_path):
    kind = side.model_class(CASE)
    keys = {"hidden_size": 504, "intermediate_size": 2048, "num_hidden_layers": 24, "vocab_size": 20000}
    weights = saved(tmp_path / "big", **keys)
    saved(tmp_path / "small")
    size, largest = (function(value.nbytes for value in weights.values()) for function in (sum, max))
    command = [sys.executable, "-c", textwrap.dedent(MEASURE), kind.__module__, kind.__name__]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    child = subprocess.run(
        [*command, str(tmp_path / "small"), str(tmp_path / "big")],
        env=environment, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    grown = json.loads(child.stdout.splitlines()[-1])
    assert 160e6 < size < 180e6
    assert largest == 20000 * 504 * 2
    for dtype, wide in (("auto", 1), ("float32", 2)):
        most = 1.15 * size * wide + largest * wide
        assert 0.9 * size * wide < grown[dtype] < most, f"{dtype}: {grown[dtype] / size / wide:.2f} times the model"
