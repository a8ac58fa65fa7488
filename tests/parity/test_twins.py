"""The twins against each other: float64 to 1e-9, float32 within the floor that either side's own rounding sets."""

import numpy as np
import pytest

from tests.helpers import (
    BODY,
    CASES,
    CLASSIFIER,
    EVERYTHING_READ,
    HEADS,
    KERAS,
    LM,
    TOLERANCE,
    TORCH,
    Case,
    assert_close,
    assert_rounding_apart,
    each_case,
    each_head,
    far,
    idle_in,
    inputs_for,
    random_weights,
)

EVERYTHING = {"output_attentions": True, "output_hidden_states": True}


def twins(case, config, dtype):
    """Build both sides with the same weights."""
    return TORCH.model(case, config, dtype=dtype), KERAS.model(case, config, dtype=dtype)


def compare(case, config, inputs, gradients=True):
    """Run both sides in both precisions, and compare all that they return and their gradients."""
    results = {}
    for dtype in ("float64", "float32"):
        models = dict(zip((TORCH, KERAS), twins(case, config, dtype), strict=True))
        if gradients:
            both = {side: side.both(model, inputs) for side, model in models.items()}
            results[dtype] = tuple(outputs | gradients for outputs, gradients in both.values())
        else:
            results[dtype] = tuple(side.run(model, inputs) for side, model in models.items())
    assert_close(*results["float64"], "float64")
    assert_rounding_apart(results["float32"], results["float64"])
    return results["float64"][0]


@each_case
def test_outputs_and_gradients(case):
    """With memory, and with labels where the head has them; gradients of weights and memory."""
    config = case.config()
    inputs = inputs_for(case, config, *EVERYTHING_READ, "labels")
    found = compare(case, config, {**inputs, "output_hidden_states": True})
    assert {f"hidden_states.{layer}" for layer in range(config.num_layers + 1)} <= found.keys()
    moved = random_weights(case, config).keys() - idle_in(case, config)
    assert all(found[name].any() for name in moved), "a gradient is zero throughout"


@each_case
def test_from_the_start_with_attentions(case):
    """No memory, no labels; a head mask for each layer; all that can be asked for."""
    config = case.config()
    found = compare(case, config, {**inputs_for(case, config, "input_ids", "head_mask"), **EVERYTHING}, gradients=False)
    assert {f"attentions.{layer}" for layer in range(config.num_layers)} <= found.keys()


@pytest.mark.parametrize("length", [0, 3, 5, 9], ids=["empty", "shorter", "equal", "longer"])
@pytest.mark.parametrize("variant", ["default", "any_length", "tf1_window", "no_memory"])
def test_memory_of_any_length(variant, length):
    """Also for a model that keeps no memory itself, which returns empty ones."""
    case = Case(LM.family, LM.head, variant)
    config = case.config()
    inputs = inputs_for(case, config, "input_ids", "mems", M=length)
    found = compare(case, config, {**inputs, "output_attentions": True}, gradients=False)
    assert found["attentions.0"].shape == (2, 3, 6, length + 6)
    assert found["mems.1"].shape == (min(config.mem_len, length + 6), 2, 12)


@pytest.mark.parametrize("T", [1, 2, 13])
def test_segments_of_any_length(T):
    """One word, and more words than the memory and the clamped distance hold."""
    config = LM.config()
    compare(LM, config, {**inputs_for(LM, config, "input_ids", "mems", T=T, M=4), **EVERYTHING}, gradients=False)


@each_head
def test_head_mask_of_one_row(case):
    config = case.config()
    mask = np.array([1, 0, 0.5], "float32")
    inputs = inputs_for(case, config, "input_ids")
    found = compare(case, config, {**inputs, "head_mask": mask, "output_attentions": True})
    for layer in range(config.num_layers):
        sums = found[f"attentions.{layer}"].sum(-1)
        np.testing.assert_allclose(sums, np.broadcast_to(mask[:, None], sums.shape), rtol=1e-9)
    assert far(found["inputs/head_mask"], 0.0) > 0


def test_inputs_embeds():
    config = BODY.config()
    inputs = inputs_for(BODY, config, "inputs_embeds", "mems")
    found = compare(BODY, config, inputs)
    assert far(found["inputs/inputs_embeds"], 0.0) > 0


@pytest.mark.parametrize(("labels", "trainer_compatible"), [(False, False), (True, False), (True, True)])
@each_head
def test_tuples(case, labels, trainer_compatible):
    """`return_dict=False` gives the same fields, in the same order on both sides."""
    config = case.config(**({"trainer_compatible": trainer_compatible} if case in HEADS[:3] else {}))
    names = ("input_ids", "labels") if labels else ("input_ids",)
    inputs = {**inputs_for(case, config, *names), "output_hidden_states": True}
    torch_model, keras_model = twins(case, config, "float64")
    fields = TORCH.call(torch_model, inputs)
    ours = TORCH.call(torch_model, {**inputs, "return_dict": False})
    theirs = KERAS.call(keras_model, {**inputs, "return_dict": False})
    assert isinstance(ours, tuple)
    assert isinstance(theirs, tuple)
    assert len(ours) == len(theirs) == len(fields)
    order = list(fields)
    if trainer_compatible and case == LM and labels:
        order.remove("loss")
        order.insert(0, "loss")
    for name, one, other in zip(order, ours, theirs, strict=True):
        wanted = fields[name]
        if not isinstance(wanted, list | tuple):
            wanted, one, other = [wanted], [one], [other]
        for each, mine, yours in zip(wanted, one, other, strict=True):
            np.testing.assert_array_equal(TORCH.numpy(mine), TORCH.numpy(each), name)
            assert_close(KERAS.numpy(yours), TORCH.numpy(mine), "float64", name)


TRAINED = [
    CLASSIFIER,
    *(each for each in CASES if each.head is LM.head),
    *(case for case in HEADS[3:] if case.head.targets),
]


@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_training_together(case):
    """A step of plain gradient descent moves every parameter; both sides stay together; the loss falls."""
    config = case.config()
    inputs = inputs_for(case, config, *EVERYTHING_READ, "labels", seed=5)
    start, losses, after = random_weights(case, config), [], []
    for side, model in zip((TORCH, KERAS), twins(case, config, "float64"), strict=True):
        outputs, gradients = side.both(model, inputs)
        side.descend(model, gradients, rate=0.02)
        losses.append((float(outputs["loss"]), float(side.run(model, inputs)["loss"])))
        after.append(side.weights(model))
    assert_close(*after, "float64")
    assert far(*losses) <= TOLERANCE["float64"]
    assert losses[0][1] < losses[0][0]
    for name in start.keys() - idle_in(case, config):
        assert far(after[0][name], start[name]) > 0, f"{name} did not move"
