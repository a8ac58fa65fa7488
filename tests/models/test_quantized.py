"""Weights in eight bits: how far the results lie from those of all bits, and what is refused."""

import gc

import numpy as np
import pytest

from tests.helpers import HEADS, ROBERTA, TORCH, each_side
from xlcore import FAMILIES
from xlcore.errors import ConfigError, WeightError

SIZES = {
    "vocab_size": 400, "hidden_size": 96, "num_attention_heads": 4, "num_hidden_layers": 4, "intermediate_size": 384,
    "max_position_embeddings": 40, "type_vocab_size": 1, "initializer_range": 0.06,
}  # fmt: skip
CASE = ROBERTA["masked_lm"]
LARGEST, AGREEING = 0.05, 0.95  # difference of scores as a part of the largest; share of words that stay the likeliest


def weights_of(config) -> dict[str, np.ndarray]:
    """Draw weights as large as trained ones are, so that a layer neither dies out nor drowns the others."""
    rng, drawn = np.random.default_rng(3), {}
    for name, param in CASE.family.params(config, CASE.head).items():
        center = 1.0 if param.kind == "norm" and name.endswith("weight") else 0.0
        drawn[name] = (center + 0.06 * rng.standard_normal(param.shape)).astype("float32")
    return drawn


def quantized(side, model) -> int:
    """Quantise the linear maps of a model in place; return how many there are now."""
    if side is TORCH:
        from xl_torch.quantization import SmallLinear, quantize

        quantize(model)
        return sum(isinstance(part, SmallLinear) for part in model.modules())
    import keras

    gc.collect()
    gc.freeze()  # Keras collects after each layer, and would look through all that is there from other tests each time
    try:
        model.quantize("int8", filters=lambda layer: isinstance(layer, keras.layers.Dense))
    finally:
        gc.unfreeze()
    return sum(str(value.dtype) == "int8" for value in model.variables)


@each_side
def test_scores_stay_close(side):
    config = CASE.config(**SIZES)
    model = side.model(CASE, config, weights=weights_of(config))
    inputs = {"input_ids": np.random.default_rng(0).integers(3, 400, (4, 24))}
    exact = side.run(model, inputs)["logits"]
    assert quantized(side, model) == 4 * 6 + 1
    rounded = side.run(model, inputs)["logits"]
    apart = np.abs(rounded - exact).max() / np.abs(exact).max()
    assert 1e-4 < apart < LARGEST
    assert (rounded.argmax(-1) == exact.argmax(-1)).mean() > AGREEING


@each_side
def test_what_is_quantized_is_not_saved(side, tmp_path):
    config = CASE.config(**SIZES)
    model = side.model(CASE, config)
    quantized(side, model)
    with pytest.raises(WeightError, match=r"as int8; save the model before it is quantised|must describe the param"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_each_family_computes_with_eight_bits_in_torch(family):
    case = next(case for case in HEADS if case.family is family and case.head.kind == "base")
    model = TORCH.model(case)
    inputs = {"input_ids": np.random.default_rng(0).integers(3, 31, (2, 6))}
    exact = TORCH.run(model, inputs)["last_hidden_state"]
    assert quantized(TORCH, model) > 0
    rounded = TORCH.run(model, inputs)["last_hidden_state"]
    assert 0 < np.abs(rounded - exact).max() / np.abs(exact).max() < 0.1


def test_half_precision_stays_half_precision_around_int8():
    config = CASE.config(**SIZES)
    model = TORCH.model(CASE, config, dtype="bfloat16", weights=weights_of(config))
    inputs = {"input_ids": np.random.default_rng(0).integers(3, 400, (4, 24))}
    exact = TORCH.run(model, inputs)["logits"]
    quantized(TORCH, model)
    assert str(TORCH.call(model, inputs).logits.dtype) == "torch.bfloat16"
    assert np.abs(TORCH.run(model, inputs)["logits"] - exact).max() / np.abs(exact).max() < 2 * LARGEST


def test_only_a_model_on_one_cpu_is_quantized():
    import torch

    with torch.device("meta"):
        model = TORCH.model_class(CASE)(CASE.config())
    with pytest.raises(ConfigError, match="parameters must lie on one CPU for int8, got meta"):
        quantized(TORCH, model)
