"""In Keras, too, a table that embeds words and scores them has one gradient, which is that of both."""

from importlib import import_module

import numpy as np
import pytest

from tests.helpers import HEADS, KERAS, ROBERTA, XLM, assert_close, inputs_for

tf = pytest.importorskip("tensorflow")
backend, shared_table = import_module("xl_tf.backend"), import_module("xl_tf.layers.shared_table")

MASKED, DECODER, WORDS = ROBERTA["masked_lm"], ROBERTA["decoder_lm"], XLM["word_lm"]
STREAM = next(case for case in HEADS if case.head.name == "TransfoXLLMHeadModel")
MODES = ("eager", "graph", "xla")


def given(case, **keys):
    """Return a model of one layer and its inputs."""
    layers = {name: 1 for name in ("num_hidden_layers", "n_layers", "n_layer") if hasattr(case.config(), name)}
    model = KERAS.model(case, case.config(**keys, **layers), dtype="float64")
    return model, inputs_for(case, model.config, "input_ids", "labels")


def learnt(model, inputs, mode="graph", pick=lambda output: output["loss"], **keys):
    """Return the gradients of a call by name, as the same call finds them again."""
    values = {name: each.value for name, each in model.canonical_parameters().items() if each.trainable}

    def step(inputs):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(pick(model(**inputs, **keys)))
        found = tape.gradient(value, values)
        return {name: tf.convert_to_tensor(each) for name, each in found.items() if each is not None}

    run = step if mode == "eager" else tf.function(step, jit_compile=mode == "xla", autograph=False)
    inputs = {name: tf.constant(each) for name, each in inputs.items()}
    first, again = ({name: each.numpy() for name, each in run(inputs).items()} for _ in range(2))
    assert_close(again, first, "float64")  # what is written in place is nobody else's
    return first


def apart(monkeypatch):
    """Have tables have a gradient for each use."""
    monkeypatch.setattr("xl_tf.layers.shared_table._shared_by", lambda weight: None)


@pytest.mark.parametrize("case", [MASKED, DECODER, WORDS, STREAM], ids=lambda case: case.head.name)
def test_the_gradient_of_both_uses_is_their_sum(case, monkeypatch):
    model, inputs = given(case)
    inputs["input_ids"][0, -2:] = model.config.pad_token_id  # learns from its scores only
    taken, add = [], shared_table.with_rows_added
    monkeypatch.setattr(shared_table, "with_rows_added", lambda *given: taken.append(given) or add(*given))
    found = {mode: learnt(model, inputs, mode) for mode in (MODES if case is MASKED else MODES[:2])}
    assert len(taken) == (3 if case is STREAM else 1) * (len(found) + 1)  # eagerly in each call
    apart(monkeypatch)
    wanted = learnt(model, inputs)
    for mode, gradients in found.items():
        assert gradients.keys() == wanted.keys(), mode
        assert_close(gradients, wanted, "float64")


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("what", ["hidden states", "scores", "scores and loss", "embeddings given"])
def test_whatever_is_derived(what, mode, monkeypatch):
    model, inputs = given(MASKED)
    pick = {
        "hidden states": lambda output: tf.square(output["hidden_states"][-1]),
        "scores": lambda output: tf.square(output["logits"]),
        "scores and loss": lambda output: tf.square(output["logits"]) + output["loss"],
    }.get(what, lambda output: output["loss"])
    if what == "embeddings given":
        ids = inputs.pop("input_ids")
        inputs["inputs_embeds"] = np.random.default_rng(0).standard_normal((*ids.shape, model.config.hidden_size))
    more = {"output_hidden_states": True, "output_scores": "scores" in what}
    found = learnt(model, inputs, mode, pick, **more)
    apart(monkeypatch)
    wanted = learnt(model, inputs, mode, pick, **more)
    assert found.keys() == wanted.keys()
    assert_close(found, wanted, "float64")


@pytest.mark.parametrize("keys", [{}, {"tie_word_embeddings": False}], ids=["frozen", "untied"])
def test_tables_that_learn_nothing_or_are_not_shared(keys, monkeypatch):
    model, inputs = given(MASKED, **keys)
    model.roberta.embedding.trainable = bool(keys)
    monkeypatch.setattr(shared_table, "with_rows_added", None)
    found = learnt(model, inputs)
    apart(monkeypatch)
    wanted = learnt(model, inputs)
    assert found.keys() == wanted.keys()
    assert ("embedding.weight" in found) == bool(keys)
    assert_close(found, wanted, "float64")


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_layer_that_is_computed_anew_on_the_way_back(mode):
    model, inputs = given(MASKED)
    wanted = learnt(model, inputs, mode)
    model.roberta.embedding.call = tf.recompute_grad(model.roberta.embedding.call)
    assert_close(learnt(model, inputs, mode), wanted, "float64")


def test_mixed_precision_reads_a_table_once():
    import keras

    model = KERAS.model(MASKED, MASKED.config(), dtype=keras.DTypePolicy("mixed_bfloat16"))
    found = learnt(model, inputs_for(MASKED, model.config, "input_ids", "labels"))
    assert {each.dtype.name for each in found.values()} == {"float32"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", [MASKED, STREAM], ids=lambda case: case.head.name)
def test_blocks_of_words_and_chunks_of_positions_change_nothing(case, mode, monkeypatch):
    numbers = import_module("xl_tf.layers.word_loss")
    model, inputs = given(case)
    wanted = learnt(model, inputs)
    for name, value in {"ENTRIES": 60, "LEAST": 4, "ROWS": 2, "NUMBERS": 8}.items():
        monkeypatch.setattr(numbers, name, value)
    assert_close(learnt(model, inputs, mode), wanted, "float64")


def test_where_nothing_can_be_written_in_place(monkeypatch):
    model, inputs = given(STREAM)
    wanted = learnt(model, inputs)
    monkeypatch.setattr("xl_tf.backend.devices", lambda: ("cuda",))
    assert backend.rewriting() == "copy"
    assert_close(learnt(model, inputs), wanted, "float64")


def test_rows_are_written_in_place_and_what_others_read_stays():
    array = backend.room((3, 2), "float32", "place", tf.ones(1))
    backend.with_rows(array, 1, tf.ones((2, 2)), "place")
    assert array.numpy().tolist() == [[0, 0], [1, 1], [1, 1]]
    more = backend.with_rows_added(array, tf.constant([[2], [2]]), tf.ones((2, 1, 2)), "place")
    assert array.numpy().tolist() == [[0, 0], [1, 1], [1, 1]]
    assert more.numpy().tolist() == [[0, 0], [1, 1], [3, 3]]
    assert backend.rewriting() == "place"


def test_nothing_larger_than_scores_is_made_on_the_way_back():
    """TensorFlow would make a gradient of the table for each position, and add them up, by itself."""
    P, V, D = 2 * 3, 11, 5
    scores = import_module("xl_tf.layers.vocabulary").WordScores(V, D)

    def step(hidden):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(tf.square(scores(hidden)))
        return tape.gradient(value, [each.value for each in scores.trainable_variables])

    code = tf.function(step, autograph=False).get_concrete_function(tf.TensorSpec((2, 3, D), "float32"))
    made = [each.shape.num_elements() or 0 for node in code.graph.get_operations() for each in node.outputs]
    assert max(made) == P * V
