"""How two sides are judged, on made numbers."""

import numpy as np
import pytest

from conversion.parity.method import Judge

SIDES = ("torch", "tensorflow")


def judged(low, high, kind="gradients"):
    """Judge float32 numbers of both sides, by name, given the exact ones."""
    arrays = [{name: np.array(each, "float64") for name, each in side.items()} for side in (*low, *high)]
    found = Judge("Head", 0, SIDES).within_floor(kind, "float32", (arrays[0], arrays[1]), (arrays[2], arrays[3]))
    return {check.name: check.passed for check in found}


@pytest.mark.parametrize(("rounding", "passed"), [(1e-9, True), (1e-5, False)])
def test_gradients_that_are_all_zero(rounding, passed):
    """Of choices that read alike: what terms leave that cancel is rounding, more than that is not."""
    zero = {"lengths/score.weight": [0.0, 0.0], "lengths/score.bias": [0.0]}
    other = {**zero, "lengths/score.weight": [rounding, 0.0]}
    assert judged((zero, other), (zero, zero))["score.weight"] == passed


@pytest.mark.parametrize(("rounding", "passed"), [(1e-9, True), (1e-7, False)])
def test_one_gradient_that_is_zero_beside_others(rounding, passed):
    """It is judged by their size, in its case alone."""
    exact = {"plain/a": [0.0], "plain/b": [1e-3], "one word/c": [2.0]}
    assert judged((exact, {**exact, "plain/a": [rounding]}), (exact, exact))["a"] == passed


def test_outputs_that_are_zero_must_be_zero():
    zero = {"plain/logits": [0.0]}
    assert not judged((zero, {"plain/logits": [1e-9]}), (zero, zero), "float32")["logits"]
