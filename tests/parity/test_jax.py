"""Keras on JAX beside PyTorch; runs where JAX is installed, and needs no TensorFlow."""

import importlib.util

import numpy as np
import pytest

from conversion.parity import Options, Side, Subject, compare
from xlcore.families.transfo_xl import EXAMPLES, HEADS, TransfoXLConfig
from xlcore.probe import Job

for name in ("jax", "keras", "torch"):  # found, not imported: Keras would start on TensorFlow
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed", allow_module_level=True)

CONFIG = TransfoXLConfig(**EXAMPLES["bins"])


@pytest.fixture(scope="module")
def sides():
    """One process each for all tests: JAX compiles every operation once, which is what takes the time."""
    with Side("torch") as one, Side("jax") as other:
        yield one, other


@pytest.mark.parametrize("head", [head.name for head in HEADS])
def test_both_sides_agree(head, sides):
    """In float64 and float32: outputs, gradients of every parameter (zero where it has no part), training, tokens."""
    subject = Subject("bins", CONFIG)
    report = compare((subject, subject), sides, Options((head,)))
    assert not report.failures
    assert {"static", "float64", "float32", "gradients", "training"} <= {check.kind for check in report.checks}
    assert "jax" in report.versions
    largest = max(check.distance for check in report.checks if check.kind == "float64")
    assert largest < 1e-12, "a step in float32 that the limit lets through"


def test_compiled_equals_eager(sides):
    subject = Subject("bins", CONFIG)
    report = compare((subject, subject), sides, Options(("TransfoXLLMHeadModel",), ("graph",), kinds=()))
    assert not report.failures
    assert {check.sides for check in report.checks if check.kind == "mode"} == {("jax eager", "jax graph")}


def test_parameters_that_have_no_part_have_a_gradient_of_zero(sides):
    """Embeddings given in place of ids: both sides say zero, neither leaves the table out."""
    embeds = np.random.default_rng(0).standard_normal((2, 3, CONFIG.d_model)).astype("float32")
    for side in sides:
        job = Job(side.model("TransfoXLModel"), CONFIG.to_dict(), tasks=("static",))
        shapes = side.ask(job).facts["shapes"]
        arrays = {f"weights/{name}": np.full(shape, 0.1) for name, shape in shapes.items()}
        job = Job(job.model, job.config, tasks=("gradients",), arrays=arrays | {"inputs/one/inputs_embeds": embeds})
        found = side.ask(job).arrays
        assert found.keys() == {f"gradients/one/{name}" for name in shapes}
        assert not found["gradients/one/embedding.bins.0.weight"].any()
        assert found["gradients/one/blocks.0.attention.value.weight"].any()
