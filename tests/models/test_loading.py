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


# ------------------------------------------------------------------------------------------------------- mapped files


def is_mapped(value, folder: Path) -> bool:
    """Tell whether a tensor lies in memory that is mapped from a file in a folder."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(end, 16) for end in line.split()[0].split("-"))
        if first <= value.data_ptr() < last:
            return line.endswith(".safetensors") and str(folder) in line
    return False


on_linux = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")


@on_linux
@pytest.mark.parametrize("size", ["5GB", "2KB"], ids=["one file", "shards"])
def test_a_mapped_model_is_the_model(size, tmp_path):
    import torch

    model = TORCH.model(CASE)
    model.save_pretrained(tmp_path, max_shard_size=size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (size == "2KB")
    ids = torch.tensor([[3, 5, 7]])
    mapped = type(model).from_pretrained(tmp_path, mmap=True)
    assert all(is_mapped(value, tmp_path) for value in mapped.canonical_parameters().values())
    assert mapped.lm_head.weight is mapped.roberta.embedding.weight
    assert torch.equal(mapped(ids).logits, model(ids).logits)
    assert not any(is_mapped(value, tmp_path) for value in type(model).from_pretrained(tmp_path).parameters())


@on_linux
def test_training_a_mapped_model_leaves_the_file_as_it_is(tmp_path):
    """Also where the trained model is then written over it."""
    import torch

    TORCH.model(CASE).save_pretrained(tmp_path)
    before = (tmp_path / WEIGHTS).read_bytes()
    model, read = (TORCH.model_class(CASE).from_pretrained(tmp_path, mmap=on) for on in (True, False))
    ids = torch.tensor([[3, 5, 7]])
    for each in (model, read):
        each(ids, labels=ids).loss.backward()
        torch.optim.SGD(each.parameters(), 0.5).step()
    assert (tmp_path / WEIGHTS).read_bytes() == before
    model.save_pretrained(tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() != before
    again = type(model).from_pretrained(tmp_path)
    for name, value in read.named_parameters():
        assert torch.equal(value, model.get_parameter(name))
        assert torch.equal(value, again.get_parameter(name))


@on_linux
def test_what_does_not_lie_in_the_file_as_in_the_model_is_read(tmp_path):
    """Another dtype, another format, and copies that may differ."""
    import torch

    weights = saved(tmp_path / "half")
    kind = TORCH.model_class(CASE)
    for dtype, mapped in (("auto", True), ("bfloat16", True), (None, False), ("float16", False)):
        model = kind.from_pretrained(tmp_path / "half", dtype=dtype, mmap=True)
        assert {is_mapped(value, tmp_path) for value in model.parameters()} == {mapped}, dtype
        for name, value in model.canonical_parameters().items():
            np.testing.assert_array_equal(value.float().detach().numpy(), weights[name].astype("float32"))
    tensors = safetensors.numpy.load_file(tmp_path / "half" / WEIGHTS)
    tensors = {name: value.astype("float32") for name, value in tensors.items()}
    for folder in ("pickled", "twice"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_bytes((tmp_path / "half" / "config.json").read_bytes())
    pickled = {name: torch.from_numpy(value) for name, value in tensors.items()}
    torch.save(pickled, tmp_path / "pickled" / "pytorch_model.bin")
    model = kind.from_pretrained(tmp_path / "pickled", mmap=True)
    assert not any(is_mapped(value, tmp_path) for value in model.parameters())
    tensors["lm_head.decoder.bias"] = tensors["lm_head.bias"] + 1
    safetensors.numpy.save_file(tensors, tmp_path / "twice" / WEIGHTS)
    with pytest.warns(UserWarning, match="tied copy, got other values"):
        model = kind.from_pretrained(tmp_path / "twice", mmap=True)
    assert [name for name, value in model.named_parameters() if not is_mapped(value, tmp_path)] == ["lm_head.bias"]
    np.testing.assert_array_equal(model.lm_head.bias.detach().numpy(), tensors["lm_head.decoder.bias"])


def test_mapping_where_nothing_can_be_mapped_is_refused(tmp_path):
    saved(tmp_path)
    with pytest.raises(ConfigError, match="XLMRobertaXLForMaskedLM: mmap must be off where shard deals the model out"):
        TORCH.model_class(CASE).from_pretrained(tmp_path, mmap=True, shard=lambda model: None)
    message = "TFXLMRobertaXLForMaskedLM: mmap must be off, got True; only models of xl_torch can map a file"
    with pytest.raises(ConfigError, match=message):
        KERAS.model_class(CASE).from_pretrained(tmp_path, mmap=True)


# --------------------------------------------------------------------------------------------------------- memory


@each_side
def test_large_values_are_taken_over_as_they_are(side, tmp_path, monkeypatch):
    """Keras takes over memory that is aligned; whatever the size, turned or not, the values are those of the file."""
    if side is KERAS:
        monkeypatch.setattr("xl_tf.backend.LARGE", 1)
    for dtype in ("bfloat16", "float32"):
        weights = saved(tmp_path / dtype, dtype)
        model = side.model_class(CASE).from_pretrained(tmp_path / dtype, dtype="auto")
        for name, value in side.weights(model).items():
            np.testing.assert_array_equal(value, weights[name])
        ids = side.native(np.array([[3, 5, 7]]))
        before = side.run(model, {"input_ids": ids})["logits"]
        del weights
        assert np.array_equal(side.run(model, {"input_ids": ids})["logits"], before)


def test_memory_of_larger_tensors_is_given_back_while_smaller_ones_come(tmp_path, monkeypatch):
    saved(tmp_path)
    config = checkpoint.read_config(tmp_path)
    given_back = []
    monkeypatch.setattr("conversion.reading.let_go", lambda: given_back.append(1))
    sizes = [value.size for _, value in checkpoint.Checkpoint(tmp_path, config, CASE.head).tensors()]
    assert len(given_back) == len(set(sizes)) - 1 > 2


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
