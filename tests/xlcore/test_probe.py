"""What a side of a comparison is asked to compute."""

import numpy as np
import pytest

from xlcore.probe import Job

TEXT, OTHER = np.array([[1, 2]]), np.array([[1, 3]])
ARRAYS = {
    "inputs/plain/input_ids": TEXT,
    "inputs/plain/labels": OTHER,
    "inputs/embeds/inputs_embeds": np.zeros((1, 2, 4)),
    "inputs/padding/input_ids": OTHER,
    "inputs/memory/input_ids": TEXT,
    "inputs/memory/labels": OTHER,
    "inputs/memory/mems.0": np.zeros((3, 1, 4)),
}


def job(mode="eager"):
    return Job("xl_torch:XLNetModel", {}, mode=mode, arrays=ARRAYS)


def test_a_text_is_continued_once():
    cases = job().cases()
    assert [case for case in cases if job().brings_text(case)] == ["plain", "padding"]


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [("eager", ["plain", "memory"]), ("compile", ["plain"]), ("graph", ["plain"]), ("xla", ["plain"])],
)
def test_compiled_only_the_first_case_is_computed_without_its_labels_too(mode, wanted):
    asked = job(mode)
    rest = {case: asked.unlabelled(case, inputs, ["labels"]) for case, inputs in asked.cases().items()}
    assert [case for case, inputs in rest.items() if inputs is not None] == wanted
    for case in wanted:
        assert list(rest[case]) == [name for name in asked.cases()[case] if name != "labels"]
