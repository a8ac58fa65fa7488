"""What only the Keras side has: `fit` and its kin, graphs and XLA, files of Keras, functional models, policies."""

import json

import numpy as np
import pytest

from tests.helpers import (
    BODY,
    CLASSIFIER,
    EVERYTHING_READ,
    HEADS,
    KERAS,
    LM,
    XLNET,
    Case,
    assert_close,
    each_case,
    each_head,
    far,
    flat,
    inputs_for,
    random_weights,
)
from xlcore.errors import ShapeError

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

GRAPH = {"jit_compile": False}  # where nothing hangs on XLA, which takes seconds to compile
MODES = {"eagerly": {"run_eagerly": True}, "graph": GRAPH, "xla": {"jit_compile": True}}


def quiet(case=LM, **keys):
    """Build a model without dropout, so that training is the same every time."""
    shares = [name for name in ("dropout", "summary_last_dropout") if name in case.family.config.fields]
    return KERAS.model(case, case.config(**dict.fromkeys(shares, 0.0), **keys))


def texts(B=5, case=LM, seed=3):
    """Draw ids and labels; 5 rows leave a short last batch of 1."""
    drawn = inputs_for(case, case.config(), "input_ids", "labels", B=B, seed=seed)
    ids = drawn.pop("input_ids")
    return ids, drawn.get("labels", drawn)  # by name where there is more than one thing to learn


# --------------------------------------------------------------------------------------------------- graph and XLA


WHOLE = (*EVERYTHING_READ[1:], "labels")
XLA = [*HEADS[:3], XLNET["base"], XLNET["permutation_lm"], XLNET["beam_question_answering"]]
COMPILED = [
    *((case, names, False) for case in HEADS for names in ((), WHOLE)),
    *((case, names, True) for case in XLA for names in ((), WHOLE)),  # XLA takes seconds to compile
]


@pytest.mark.parametrize(("case", "names", "jit"), COMPILED, ids=str)
def test_compiled_equals_eager(case, names, jit):
    model, config = KERAS.model(case), case.config()
    ready = KERAS.ready(model, inputs_for(case, config, "input_ids", *names))
    eager = flat(model(ready), KERAS.numpy)
    compiled = tf.function(lambda inputs: dict(model(inputs)), jit_compile=jit)
    assert_close(flat(compiled(ready), KERAS.numpy), eager, "equal")


def test_one_graph_for_segments_of_any_length():
    """A graph with free batch and length, traced once."""
    model, traced = KERAS.model(LM), []

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32)])
    def scores(ids):
        traced.append(1)
        return model(ids).prediction_scores

    for B, T in ((2, 3), (3, 9), (1, 1)):
        ids = inputs_for(LM, model.config, "input_ids", B=B, T=T)["input_ids"].astype("int32")
        wanted = KERAS.run(model, {"input_ids": ids})["prediction_scores"]
        assert_close(KERAS.numpy(scores(tf.constant(ids))), wanted, "equal")
    assert len(traced) == 1


# ------------------------------------------------------------------------------------------------------------- fit


FORMS = ["in the inputs", "as y", "tf.data"]


@pytest.mark.parametrize(
    ("mode", "form"), [*(("graph", form) for form in FORMS), ("eagerly", "as y"), ("xla", "in the inputs")]
)
def test_fit(mode, form):
    """Labels wherever they stand, a short last batch, every way to run: the loss of each batch and then its fall."""
    model, (ids, labels) = quiet(), texts()
    model.compile("sgd", **MODES[mode])
    first = [float(model({"input_ids": ids[part], "labels": labels[part]}).loss) for part in (slice(0, 4), slice(4, 5))]
    settings = {"epochs": 3, "shuffle": False, "verbose": 0}
    if form == "in the inputs":
        history = model.fit({"input_ids": ids, "labels": labels}, batch_size=4, **settings)
    elif form == "as y":
        history = model.fit(ids, labels, batch_size=4, **settings)
    else:
        history = model.fit(tf.data.Dataset.from_tensor_slices(({"input_ids": ids}, labels)).batch(4), **settings)
    losses = history.history["loss"]
    # the second batch comes after a step on the first, so the mean of the first epoch is near, not equal
    assert abs(losses[0] - (4 * first[0] + first[1]) / 5) < 0.1
    assert losses[0] > losses[1] > losses[2]


def test_all_ways_to_fit_train_alike():
    """Same data, same steps, same weights at the end; and every parameter has moved."""
    start, ends = random_weights(LM, LM.config()), []
    ids, labels = texts()
    for mode in MODES.values():
        model = quiet()
        model.compile(keras.optimizers.SGD(0.05), **mode)
        model.fit(ids, labels, batch_size=4, shuffle=False, verbose=0)
        ends.append(KERAS.weights(model))
    assert_close(ends[1], ends[0], "equal")
    assert_close(ends[2], ends[0], "equal")
    for name, value in start.items():
        assert far(ends[0][name], value) > 0, f"{name} did not move"


def test_fit_for_a_classifier():
    model, (ids, labels) = quiet(CLASSIFIER), texts(case=CLASSIFIER)
    model.compile(keras.optimizers.Adam(0.01), **GRAPH)
    losses = model.fit(ids, labels, epochs=4, batch_size=2, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("mode", ["eagerly", "graph"])
def test_evaluate(mode):
    """One number: the mean of the losses of the batches, weighed by their rows."""
    model, (ids, labels) = quiet(), texts()
    model.compile("sgd", **MODES[mode])
    parts = [(slice(0, 3), 3), (slice(3, 5), 2)]
    losses = [float(model({"input_ids": ids[part], "labels": labels[part]}).loss) * rows for part, rows in parts]
    got = model.evaluate(ids, labels, batch_size=3, verbose=0)
    assert_close(got, sum(losses) / 5, "equal")
    assert_close(model.evaluate({"input_ids": ids, "labels": labels}, batch_size=3, verbose=0), got, "equal")


@each_head
def test_predict(case):
    """All rows, also of the short last batch; no memory, whose rows are not rows of the data."""
    model, (ids, _) = quiet(case), texts(case=case)
    model.compile("sgd", **GRAPH)
    got = model.predict({"input_ids": ids}, batch_size=2, verbose=0)
    wanted = model({"input_ids": ids})
    assert "mems" not in got
    assert_close(flat(got), {name: KERAS.numpy(value) for name, value in wanted.items() if name != "mems"}, "equal")


def test_predict_all_that_can_be_asked_for():
    config = BODY.config(output_hidden_states=True, output_attentions=True)
    model, (ids, _) = KERAS.model(BODY, config), texts()
    got = flat(model.predict(ids, batch_size=2, verbose=0))
    wanted = flat(model(ids), KERAS.numpy)
    assert_close(got, {name: value for name, value in wanted.items() if not name.startswith("mems")}, "equal")


@pytest.mark.parametrize("mode", ["eagerly", "graph"])
def test_fit_refuses_what_it_would_ignore(mode):
    ids, labels = texts()
    model = quiet()
    model.compile("sgd", **MODES[mode])
    message = r"TFTransfoXLLMHeadModel: fit must get no sample_weight; labels of -100 weigh nothing"
    with pytest.raises(ShapeError, match=message):
        model.fit(ids, labels, sample_weight=np.ones(5), verbose=0)
    with pytest.raises(ShapeError, match=r"TFTransfoXLLMHeadModel: fit must get labels, .*, got neither"):
        model.fit(ids, verbose=0)
    body = quiet(BODY)
    body.compile("sgd", **MODES[mode])
    with pytest.raises(ShapeError, match=r"TFTransfoXLModel: fit must get labels, .*, got neither"):
        body.fit(ids, verbose=0)


def test_a_loss_of_the_callers_own():
    """`compile(loss=...)` by the name of an output wins over the loss that the model has itself."""
    model, (ids, labels) = quiet(CLASSIFIER), texts(case=CLASSIFIER)
    labels = np.maximum(labels, 0)
    model.compile("sgd", {"logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}, **GRAPH)
    wanted = float(model({"input_ids": ids, "labels": labels}).loss)
    assert_close(model.evaluate(ids, {"logits": labels}, verbose=0), wanted, "equal")


def test_memory_through_fit():
    """`CarryMemory`: the loss of consecutive segments is that of a loop which hands the memory on."""
    model, (ids, _) = quiet(), texts(B=2, seed=6)
    ids = np.concatenate([ids, ids[:, ::-1]], axis=1)  # [2, 12]
    segments = np.concatenate([ids[:, start : start + 4] for start in (0, 4, 8)])  # rows of each text in step
    losses, mems = [], model.init_mems(2)
    for start in (0, 4, 8):
        segment = ids[:, start : start + 4]
        output = model({"input_ids": segment, "labels": segment, "mems": mems})
        losses.append(float(output.loss))
        mems = output.mems
    alone = [float(model({"input_ids": part, "labels": part}).loss) for part in np.split(segments, 3)]
    model.compile(keras.optimizers.SGD(0.0), **GRAPH)
    carry = KERAS.towers.CarryMemory(2)
    data, settings = {"input_ids": segments, "labels": segments}, {"batch_size": 2, "verbose": 0}
    assert_close(model.evaluate(data, callbacks=[carry], **settings), np.mean(losses), "equal")
    history = model.fit(data, validation_data=(data,), epochs=2, shuffle=False, callbacks=[carry], **settings).history
    assert_close(history["loss"], np.full(2, np.mean(losses)), "equal")
    assert_close(history["val_loss"], np.full(2, np.mean(losses)), "equal")
    assert_close(model.evaluate(data, **settings), np.mean(alone), "equal")
    assert abs(np.mean(alone) - np.mean(losses)) > 1e-3


# ------------------------------------------------------------------------------------------------------- variables


@each_case
def test_weights_exist_at_construction_and_count_once(case):
    """Tied ones too: as many numbers as the specification lists."""
    model = KERAS.model_class(case)(case.config())
    table = case.family.params(case.config(), case.head)
    assert len(model.weights) == len(table)
    assert len({id(variable) for variable in model.trainable_variables}) == len(table)
    assert model.count_params() == sum(int(np.prod(param.shape)) for param in table.values())


POLICIES = [
    *((case, policy) for case in HEADS for policy in ("bfloat16", "mixed_float16")),
    *((case, policy) for case in (BODY, LM, XLNET["base"]) for policy in ("float32", "float64", "mixed_bfloat16")),
]


@pytest.mark.parametrize(("case", "policy"), POLICIES, ids=str)
def test_policies(case, policy):
    """The policy, given or global, rules variables, outputs and memory."""
    given = KERAS.model_class(case)(case.config(), dtype=policy)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        found = KERAS.model_class(case)(case.config())
    finally:
        keras.config.set_dtype_policy(before)
    wanted = keras.dtype_policies.get(policy)
    for model in (given, found):
        output = model(inputs_for(case, model.config, "input_ids")["input_ids"])
        assert {variable.dtype for variable in model.weights} == {wanted.variable_dtype}
        assert keras.backend.standardize_dtype(output[0].dtype) == wanted.compute_dtype
        kept = output.get("mems", [output[0]])
        assert {keras.backend.standardize_dtype(memory.dtype) for memory in kept} == {wanted.compute_dtype}


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
@each_head
def test_mixed_precision(case, dtype):
    """Weights in float32, activations in half, near the float32 result, finite gradients (div_val is 2 here)."""
    config = case.config()
    inputs = inputs_for(case, config, "input_ids", "mems", "labels")
    weights = {name: value * 0.5 for name, value in random_weights(case, config).items()}
    plain, mixed = (KERAS.model(case, config, dtype=kind, weights=weights) for kind in ("float32", dtype))
    wanted = KERAS.run(plain, inputs)
    got, gradients = KERAS.both(mixed, inputs)
    assert_close(got, wanted, dtype.removeprefix("mixed_"))
    assert all(np.isfinite(value).all() for value in gradients.values())


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_fit_in_mixed_precision(dtype):
    model, (ids, labels) = KERAS.model(LM, LM.config(dropout=0.0), dtype=dtype), texts()
    model.compile(keras.optimizers.Adam(0.01), **GRAPH)
    losses = model.fit(ids, labels, epochs=4, batch_size=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


# ---------------------------------------------------------------------------------------------------- files of Keras


@each_head
def test_json_round_trip(case):
    model = KERAS.model_class(case)(case.config(), dtype="bfloat16")
    again = keras.models.model_from_json(model.to_json())
    assert type(again) is type(model)
    assert again.config == model.config
    assert again.dtype_policy.name == "bfloat16"
    assert json.loads(model.to_json())["config"]["config"]["vocab_size"] == 31
    assert isinstance(again.config, case.family.config)


@pytest.mark.parametrize("case", [*HEADS, Case(LM.family, LM.head, "tied_projections")], ids=str)
def test_weights_file_round_trip(case, tmp_path):
    model, inputs = KERAS.model(case), inputs_for(case, case.config(), "input_ids", "mems")
    model.save_weights(tmp_path / "model.weights.h5")
    other = KERAS.model_class(case)(case.config())
    other.load_weights(tmp_path / "model.weights.h5")
    for name, value in KERAS.run(model, inputs).items():
        np.testing.assert_array_equal(KERAS.run(other, inputs)[name], value, name)


@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables:UserWarning")  # of a stream not switched on
@pytest.mark.parametrize("case", HEADS, ids=str)
def test_keras_file_round_trip(case, tmp_path):
    """Weights, config and, for a compiled model, the state of its optimizer: training goes on where it stopped."""
    model, inputs = quiet(case), inputs_for(case, case.config(), "input_ids", "mems")
    trained = case in (LM, CLASSIFIER, XLNET["sequence_classification"])
    if trained:
        data, steps = texts(case=case), {"batch_size": 4, "shuffle": False, "verbose": 0}
        model.compile(keras.optimizers.Adam(0.01), **GRAPH)
        model.fit(*data, **steps)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.config == model.config
    for name, value in KERAS.run(model, inputs).items():
        np.testing.assert_array_equal(KERAS.run(loaded, inputs)[name], value, name)
    if trained:
        assert int(loaded.optimizer.iterations) == 2
        losses = [each.fit(*data, **steps).history["loss"] for each in (model, loaded)]
        np.testing.assert_array_equal(losses[1], losses[0])
        assert_close(KERAS.weights(loaded), KERAS.weights(model), "equal")


# -------------------------------------------------------------------------------------------------------- functional


def test_functional_model_around_it(tmp_path):
    """KerasTensors as inputs, of free length; saved and loaded again."""
    body = KERAS.model(BODY)
    ids = keras.Input((None,), dtype="int32", name="input_ids")
    hidden = body(ids).last_hidden_state
    assert hidden.shape == (None, None, 12)
    pooled = keras.layers.GlobalAveragePooling1D()(hidden)
    model = keras.Model(ids, keras.layers.Dense(2, name="answer")(pooled))
    kernel, bias = model.get_layer("answer").get_weights()
    model.compile("sgd", "mse", **GRAPH)
    for T in (6, 3):
        text = inputs_for(BODY, body.config, "input_ids", T=T)["input_ids"].astype("int32")
        wanted = KERAS.run(body, {"input_ids": text})["last_hidden_state"].mean(1) @ kernel + bias
        assert_close(model.predict(text, verbose=0), wanted, "equal")
    assert np.isfinite(model.fit(text, np.ones((2, 2)), verbose=0).history["loss"][0])
    model.save(tmp_path / "around.keras")
    loaded = keras.models.load_model(tmp_path / "around.keras")
    assert_close(loaded.predict(text, verbose=0), model.predict(text, verbose=0), "equal")


def test_functional_model_of_a_fixed_length():
    model = KERAS.model(LM)
    ids = keras.Input((6,), dtype="int32")
    scores = keras.Model(ids, model(ids).prediction_scores)
    text = texts()[0].astype("int32")
    assert scores.output_shape == (None, 6, 31)
    assert_close(scores.predict(text, verbose=0), KERAS.run(model, {"input_ids": text})["prediction_scores"], "equal")


def test_ways_to_call():
    """By position, by name, as one dictionary, with names beside it: one meaning."""
    model, config = KERAS.model(LM), LM.config()
    inputs = inputs_for(LM, config, "input_ids", "mems", "labels")
    ids, mems, labels = inputs["input_ids"], inputs["mems"], inputs["labels"]
    wanted = flat(model(inputs), KERAS.numpy)
    for output in (
        model(ids, mems, labels=labels),
        model(input_ids=ids, mems=mems, labels=labels),
        model({"input_ids": ids, "labels": labels}, mems=mems),
        model({"input_ids": tf.constant(ids), "mems": tuple(mems), "labels": tf.constant(labels)}),
    ):
        assert_close(flat(output, KERAS.numpy), wanted, "equal")
    hidden = inputs_for(BODY, config, "inputs_embeds")["inputs_embeds"]
    body = KERAS.model(BODY)
    by_name = body(inputs_embeds=hidden).last_hidden_state
    np.testing.assert_array_equal(body({"inputs_embeds": hidden}).last_hidden_state, by_name)


def test_memory_through_a_dataset():
    """Nested inputs: a batch that brings its own memory along."""
    model, config = quiet(), LM.config()
    inputs = inputs_for(LM, config, "input_ids", "mems", "labels", M=5)
    model.compile(keras.optimizers.SGD(0.0), **GRAPH)
    data = tf.data.Dataset.from_tensors({**inputs, "mems": tuple(inputs["mems"])})
    wanted = KERAS.run(model, inputs)["loss"]
    assert_close(model.fit(data, shuffle=False, verbose=0).history["loss"], [wanted], "equal")
    assert_close(model.evaluate(data, verbose=0), wanted, "equal")


def test_a_resized_model_trains_and_saves(tmp_path):
    """After a resize all that was compiled is gone, and everything is there again."""
    model, (ids, labels) = quiet(), texts()
    model.compile("sgd", **GRAPH)
    model.fit(ids, labels, verbose=0)
    model.resize_token_embeddings(40)
    assert len(model.trainable_variables) == len(random_weights(LM, model.config))
    ids[:, 0] = 39
    labels[:, 1] = 38
    model.compile(keras.optimizers.SGD(0.05), **GRAPH)
    losses = model.fit(ids, labels, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_close(KERAS.weights(loaded), KERAS.weights(model), "equal")
