"""A table that embeds words and scores them has one gradient, which is that of both."""

import copy

import pytest

from tests.helpers import ROBERTA, TORCH, XLM, assert_close, inputs_for

torch = pytest.importorskip("torch")

MASKED, DECODER, WORDS = ROBERTA["masked_lm"], ROBERTA["decoder_lm"], XLM["word_lm"]
WHOLE = "aten::embedding_dense_backward"  # makes a second gradient as large as the table


def learnt(model, inputs, pick=lambda output: output.loss):
    """Return the gradients of a call, by name, and how often each step was taken on the way back, by name."""
    model.zero_grad()
    output = pick(model(**inputs))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        output.backward()
    gradients = {name: value.grad.numpy() for name, value in model.named_parameters() if value.grad is not None}
    return gradients, {event.key.partition("(")[0]: event.count for event in profile.key_averages()}


def apart(model, monkeypatch):
    """Return a copy of a model that has a gradient for each use."""
    monkeypatch.setattr("xl_torch.layers.shared_table._shared_by", lambda weight: None)
    return copy.deepcopy(model)


def given(case, **keys):
    model = TORCH.model(case, case.config(**keys), dtype="float64")
    return model, {
        name: TORCH.native(each) for name, each in inputs_for(case, model.config, "input_ids", "labels").items()
    }


@pytest.mark.parametrize("case", [MASKED, DECODER, WORDS], ids=lambda case: case.head.name)
def test_the_gradient_of_both_uses_is_their_sum(case, monkeypatch):
    model, inputs = given(case)
    inputs["input_ids"][0, -2:] = model.config.pad_token_id  # learns from its scores only
    found, steps = learnt(model, inputs)
    wanted, apart_steps = learnt(apart(model, monkeypatch), inputs)
    assert found.keys() == wanted.keys()
    assert_close(found, wanted, "float64")
    assert steps["_LookupBackward"] == 1
    assert steps.get(WHOLE, 0) == apart_steps[WHOLE] - 1  # positions have a table, too


def test_gradients_add_up_over_calls():
    model, inputs = given(MASKED)
    model(**inputs).loss.backward()
    twice = {name: 2 * value.grad for name, value in model.named_parameters()}
    model(**inputs).loss.backward()
    assert_close({name: value.grad for name, value in model.named_parameters()}, twice, "float64")


@pytest.mark.parametrize("what", ["hidden states", "scores", "scores and loss", "embeddings given"])
def test_whatever_is_derived(what, monkeypatch):
    model, inputs = given(MASKED)
    pick = {
        "hidden states": lambda output: output.hidden_states[-1].square().sum(),
        "scores": lambda output: output.logits.square().sum(),
        "scores and loss": lambda output: output.logits.square().sum() + output.loss,
    }.get(what, lambda output: output.loss)
    inputs |= {"output_hidden_states": True, "output_scores": "scores" in what}
    if what == "embeddings given":
        ids = inputs.pop("input_ids")
        inputs["inputs_embeds"] = torch.randn(*ids.shape, model.config.hidden_size, dtype=torch.float64)
    found, _ = learnt(model, inputs, pick)
    wanted, _ = learnt(apart(model, monkeypatch), inputs, pick)
    assert found.keys() == wanted.keys()
    assert_close(found, wanted, "float64")


def test_tables_that_learn_nothing_or_are_not_shared(monkeypatch):
    for keys in ({}, {"tie_word_embeddings": False}):
        model, inputs = given(MASKED, **keys)
        model.roberta.embedding.weight.requires_grad = bool(keys)
        found, steps = learnt(model, inputs)
        with monkeypatch.context() as patch:
            wanted, _ = learnt(apart(model, patch), inputs)
        assert found.keys() == wanted.keys()
        assert_close(found, wanted, "float64")
        assert "_LookupBackward" not in steps


def test_a_call_that_fails_leaves_nothing_behind():
    model, inputs = given(MASKED)
    with pytest.raises(Exception, match="labels"):
        model(**inputs | {"labels": inputs["labels"][:, :2]})
    found, _ = learnt(model.roberta, {"input_ids": inputs["input_ids"]}, lambda output: output[0].square().sum())
    assert found.keys() == {name for name, _ in model.roberta.named_parameters()}
