"""How two sides are judged, on made numbers."""

import numpy as np
import pytest

from conversion.parity.method import SECOND, Judge, doubted, settled, tied
from conversion.parity.results import Check

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


def check(name, distance, kind="gradients", precision="float32", seed=0):
    """Make a check whose limit is one."""
    return Check("Head", "plain", seed, kind, SIDES, name, distance, 0.0, 1.0, 1.0, precision=precision)


def test_what_fails_by_chance_gives_way_to_a_second_draw():
    first = [check("a", 0.5), check("b", 13.0), check("c", 2.0, "training")]
    second = [check("a", 0.1, seed=SECOND), check("b", 0.25, seed=SECOND), check("c", 3.0, "training", seed=SECOND)]
    a, b, c = settled(first, second)
    assert (a, c) == (first[0], first[2])  # of training something fails again: it stands
    assert (b.distance, b.seed, b.note) == (0.25, SECOND, "second draw; 13 of its limit with seed 0")


def test_what_fails_again_elsewhere_stands():
    first, second = [check("a", 13.0), check("b", 0.5)], [check("a", 0.5), check("b", 13.0)]
    assert settled(first, second) == first


def test_what_is_not_drawn_again_stands():
    assert settled([check("a", 13.0)], []) == [check("a", 13.0)]


@pytest.mark.parametrize("kind", ["gradients", "tokens", "static"])
def test_what_fails_exactly_is_never_in_doubt(kind):
    exact = check("a", 13.0, kind, "" if kind == "static" else "float64")
    assert doubted([exact, check("b", 13.0)]) == []
    assert doubted([check("a", 0.5), check("b", 13.0)]) == [check("b", 13.0)]
    assert doubted([check("a", 0.5)]) == []


TOP = {"lengths/top_log_probs": np.array([0.5, 0.25, 0.25]), "lengths/top_index": np.array([4, 1, 3])}


@pytest.mark.parametrize(
    ("case", "likelihood", "passed"), [("lengths", 0.25, True), ("lengths", 0.25 + 1e-6, False), ("plain", 0.25, False)]
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_choices_among_what_is_equally_likely(case, likelihood, passed, dtype):
    """Masked positions read alike: which of them is named does not count; in the case without any it does."""
    other = {"top_log_probs": np.array([0.5, likelihood, 0.25]), "top_index": np.array([4, 2, 3])}
    a = {name.replace("lengths", case): each for name, each in TOP.items()}
    b = {f"{case}/{name}": each for name, each in other.items()}
    judge = Judge("Head", 0, SIDES)
    checks = judge.exact("float64", a, b) if dtype == "float64" else judge.within_floor(dtype, dtype, (a, b), (a, a))
    assert {check.name: check.passed for check in checks}["top_index"] == passed


def test_ties_are_looked_for_in_choices_only():
    b = {"lengths/top_log_probs": TOP["lengths/top_log_probs"], "lengths/index": np.array([1])}
    assert tied("float64", TOP, b).keys() == b.keys()
    fewer = {name: each[:2] for name, each in TOP.items()}
    for other in ({}, fewer):  # a side that lacks something, or has less of it, differs
        assert tied("float64", other, TOP)["lengths/top_index"] is TOP["lengths/top_index"]
