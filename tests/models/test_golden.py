"""Both frameworks against what the reference implementation computed: outputs, losses, gradients."""

import numpy as np
import pytest

from tests.helpers import TORCH, assert_close, each_side, golden_files, read_golden

FILES = golden_files()
each_file = pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)


def test_all_published_cases_are_here():
    counts = {"transfo_xl-": 18, "xlnet-": 26, "xlm-": 19, "xlm_roberta_xl-": 16}
    assert {prefix: sum(file.name.startswith(prefix) for file in FILES) for prefix in counts} == counts


@each_file
@each_side
def test_outputs(side, file):
    golden = read_golden(file)
    model = side.model(golden.case, golden.config, weights=golden.weights)
    asked = {"output_scores": True} if golden.case.head.kind in ("word_lm", "masked_lm", "decoder_lm") else {}
    got = side.run(model, {**golden.inputs, **golden.options, **asked})
    wanted = dict(golden.outputs)
    if "prediction_scores" in wanted:  # the reference stores them under both of their names
        np.testing.assert_array_equal(wanted.pop("logits"), wanted["prediction_scores"])
    if "losses" in wanted:  # ours stand by position, theirs by bin
        wanted["losses"], got["losses"] = np.sort(wanted["losses"], axis=None), np.sort(got["losses"], axis=None)
    assert_close(got, wanted, "golden")


@pytest.mark.parametrize("file", [file for file in FILES if "loss" in read_golden(file).outputs], ids=lambda p: p.stem)
@each_side
def test_gradients(side, file):
    golden = read_golden(file)
    model = side.model(golden.case, golden.config, weights=golden.weights)
    got = side.gradients(model, golden.inputs)
    weights = {name: gradient for name, gradient in got.items() if not name.startswith("inputs/")}
    assert_close(weights, golden.grads, "golden")


@each_file
def test_state_dict_of_the_reference(file):
    """`load_state_dict` takes the reference's own names, strictly."""
    pytest.importorskip("torch")
    golden = read_golden(file)
    model = TORCH.model_class(golden.case)(golden.config)
    model.load_state_dict({name: TORCH.native(value) for name, value in golden.foreign.items()})
    assert_close(TORCH.weights(model), golden.weights, "float64")
