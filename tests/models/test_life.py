"""What becomes of a model in its life: resized, copied, stopped in training, exported, given wrong data in graphs."""

import copy

import numpy as np
import pytest

from tests.helpers import BODY, CLASSIFIER, HEADS, KERAS, LM, TORCH, assert_close, each_side, inputs_for
from xlcore import ConfigError, WeightError

each_transfo_xl = pytest.mark.parametrize("case", HEADS[:3], ids=str)


def texts(case=LM, B=4):
    """Draw ids and labels as TensorFlow's graphs like them."""
    drawn = inputs_for(case, case.config(), "input_ids", "labels", B=B)
    return drawn["input_ids"].astype("int32"), np.maximum(drawn["labels"], 0)


# ------------------------------------------------------------------------------------------------------- resizing


@each_transfo_xl
def test_a_resized_torch_model_keeps_hooks_dtypes_and_what_does_not_change(case):
    """What does not change is the same object, so that an optimizer goes on with it."""
    torch = pytest.importorskip("torch")
    model, called = TORCH.model(case), []
    body = model.body()
    body.blocks[0].register_forward_hook(lambda *_: called.append("block"))
    body.embedding.bins[-1].to(torch.float64)
    body.embedding.bins[-1].weight.requires_grad_(False)
    body.blocks[1].dropout.p, body.blocks[1].training = 0.7, True
    before = model.canonical_parameters()
    model.resize_token_embeddings(40)
    after = model.canonical_parameters()
    assert list(after) == list(before)
    changed = {name for name in after if after[name] is not before[name]}
    assert changed == {name for name in after if name.startswith(("embedding.bins.2.weight", "crit.bins.2.bias"))}
    assert after["embedding.bins.2.weight"].dtype == torch.float64
    assert not after["embedding.bins.2.weight"].requires_grad
    assert after["embedding.bins.0.weight"].dtype == torch.float32
    assert (body.blocks[1].dropout.p, body.blocks[1].training, model.config.vocab_size) == (0.7, True, 40)
    body.embedding.bins[-1].float()
    model(TORCH.native(np.array([[39, 2, 3]])))
    assert called == ["block"]


def test_a_resized_torch_model_stays_tied():
    model = TORCH.model(LM)
    model.resize_token_embeddings(40)
    for mine, shared in zip(model.crit.bins, model.transformer.embedding.bins, strict=True):
        assert mine.weight is shared.weight


def test_a_resized_keras_model_keeps_its_name():
    pytest.importorskip("tensorflow")
    model = KERAS.model_class(LM)(LM.config(), name="mine", dtype="mixed_bfloat16")
    model.transformer.blocks[0].trainable = False
    model.resize_token_embeddings(40)
    assert (model.name, model.dtype_policy.name, model.transformer.blocks[0].trainable) == (
        "mine",
        "mixed_bfloat16",
        False,
    )


# -------------------------------------------------------------------------------------------------------- copying


@each_transfo_xl
@each_side
def test_a_copy_goes_on_where_the_model_stands(side, case):
    """Memory that is carried, its length, what is trained: a copy has all, and shares nothing."""
    model, config = side.model(case), case.config()
    first, second = (inputs_for(case, config, "input_ids", seed=seed) for seed in (3, 4))
    model.reset_memory_length(4)
    model.carry_memory(2)
    side.run(model, first)
    other = copy.deepcopy(model)
    assert other.body().mem_len == 4
    wanted = side.run(model, second)
    assert_close(side.run(other, second), wanted, "equal")
    model.reset_memory()
    assert np.abs(side.numpy(other.body().carried.states()[0])).max() > 0
    assert config == other.config


def test_a_copy_of_a_keras_model_is_trained_alike():
    pytest.importorskip("tensorflow")
    model = KERAS.model(LM)
    model.transformer.blocks[1].trainable = False
    other = copy.deepcopy(model)
    assert [each.trainable for each in other.transformer.blocks] == [True, False]
    assert not other.body().carried.active


# ------------------------------------------------------------------------------------------------- keys of configs


@each_side
def test_a_model_whose_subclass_adds_parameters_is_not_saved_in_part(side, tmp_path):
    """They have no place under foreign names; each framework's own way of saving has them."""
    cls = side.model_class(BODY)

    class Tagged(cls):
        def __init__(self, config, **keys):
            super().__init__(config, **keys)
            self.tagger = self.embedding_like()

        def embedding_like(self):
            layer = type(self.blocks[0].attention.query)
            made = layer(12, 5) if side is TORCH else layer(5)
            if side is KERAS:
                made.build((None, 12))
            return made

    with pytest.raises(WeightError, match=r"Tagged: config must .*, got tagger\.bias \[5\] for none, tagger\.weight"):
        Tagged(BODY.config()).save_pretrained(tmp_path)


def test_a_changed_config_makes_no_keras_file(tmp_path):
    model = KERAS.model(LM)
    model.config.n_layer = 3
    message = "TFTransfoXLLMHeadModel: config must describe the parameters as they are, got blocks.2"
    with pytest.raises(WeightError, match=message):
        model.save(tmp_path / "model.keras")
    model.config.n_layer = 2
    model.save(tmp_path / "model.keras")


# ------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("broken", ["fit", "validation", "evaluate"])
def test_memory_is_let_go_where_training_is_broken_off(broken):
    keras = pytest.importorskip("keras")
    model, (ids, labels) = KERAS.model(LM), texts()
    model.compile("sgd", run_eagerly=True)

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if broken == "fit":
                raise KeyboardInterrupt

        def on_test_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    carry, settings = KERAS.towers.CarryMemory(2), {"batch_size": 2, "verbose": 0}
    run = model.evaluate if broken == "evaluate" else model.fit
    more = {} if broken == "evaluate" else {"validation_data": (ids, labels), "shuffle": False}
    with pytest.raises(KeyboardInterrupt):
        run(ids, labels, callbacks=[carry, Stop()], **more, **settings)
    assert not model.body().carried.active
    assert model.carrier is None
    model(ids)  # of another batch size
    model.fit(ids, labels, callbacks=[KERAS.towers.CarryMemory(2)], shuffle=False, **settings)
    assert not model.body().carried.active


@pytest.mark.parametrize("case", [LM, CLASSIFIER], ids=str)
def test_fit_whatever_form_outputs_have(case):
    """`return_dict=False` is for callers; training needs names."""
    pytest.importorskip("tensorflow")
    ids, labels = texts(case)
    histories, predictions = [], []
    for return_dict in (True, False):
        model = KERAS.model(case, case.config(return_dict=return_dict, dropout=0.0))
        model.compile("sgd", run_eagerly=True)
        history = model.fit(ids, labels, validation_data=(ids, labels), batch_size=2, shuffle=False, verbose=0).history
        histories.append([history["loss"], history["val_loss"]])
        predicted = model.predict(ids, batch_size=2, verbose=0)
        predictions.append(list(predicted.values()) if return_dict else list(predicted))
    assert_close(histories[1], histories[0], "equal")
    assert len(predictions[0]) == len(predictions[1]) == 1
    assert_close(predictions[1][0], predictions[0][0], "equal")


# ------------------------------------------------------------------------------- wrong data where code is compiled


@pytest.mark.parametrize("wrong", ["ids", "labels"])
@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_wrong_data_in_a_graph_is_not_a_number(jit, wrong):
    """A compiled step cannot refuse an id or a label; it must not go on as if all were well."""
    pytest.importorskip("tensorflow")
    model, (ids, labels) = KERAS.model(LM), texts()
    model.compile("sgd", jit_compile=jit)
    assert np.isfinite(model.evaluate(ids, labels, verbose=0))
    (ids if wrong == "ids" else labels)[1, 2] = 31
    assert np.isnan(model.evaluate(ids, labels, verbose=0))


@pytest.mark.parametrize("label", [31, -1, 400])
def test_labels_all_wrong_are_no_loss_of_zero(label):
    pytest.importorskip("tensorflow")
    model, (ids, labels) = KERAS.model(LM), texts()
    model.compile("sgd", jit_compile=False)
    assert np.isnan(model.fit(ids, np.full_like(labels, label), verbose=0).history["loss"][0])
    assert model.evaluate(ids, np.full_like(labels, -100), verbose=0) == 0.0


@pytest.mark.parametrize("label", [3, -1])
def test_wrong_classes_in_a_graph_are_not_a_number(label):
    pytest.importorskip("tensorflow")
    model, (ids, labels) = KERAS.model(CLASSIFIER), texts(CLASSIFIER)
    model.compile("sgd", jit_compile=False)
    labels[2] = label
    assert np.isnan(model.evaluate(ids, labels, verbose=0))


@pytest.mark.parametrize("wrong", ["ids", "labels"])
def test_wrong_data_in_compiled_torch_is_not_a_number(wrong):
    torch = pytest.importorskip("torch")
    model, (ids, labels) = TORCH.model(LM), texts()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    (ids if wrong == "ids" else labels)[1, 2] = 31
    output = compiled(TORCH.native(ids), labels=TORCH.native(labels))
    assert output.loss.isnan()
    if wrong == "labels":
        assert output.losses.isnan().sum() == 1


def test_a_classifier_that_knows_no_padding_in_a_graph_of_any_batch():
    """One text is read at its end; of several it cannot know where each ends, and says so."""
    tf = pytest.importorskip("tensorflow")
    model, (ids, _) = KERAS.model(CLASSIFIER, CLASSIFIER.config(pad_token_id=None)), texts(CLASSIFIER)
    traced = tf.function(lambda ids: model(ids).logits, input_signature=[tf.TensorSpec((None, None), tf.int32)])
    assert_close(KERAS.numpy(traced(ids[:1])), KERAS.numpy(model(ids[:1]).logits), "equal")
    assert np.isnan(KERAS.numpy(traced(ids))).all()


# --------------------------------------------------------------------------------------------------------- export


@each_transfo_xl
def test_a_saved_model_serves_ids(case, tmp_path):
    """Of any batch and length; lists of outputs by name."""
    tf = pytest.importorskip("tensorflow")
    model = KERAS.model(case)
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    for B, T in ((2, 6), (1, 3)):
        ids = inputs_for(case, model.config, "input_ids", B=B, T=T)["input_ids"].astype("int32")
        found = {name: KERAS.numpy(value) for name, value in served.serve(tf.constant(ids)).items()}
        wanted = {name.replace(".", "_"): value for name, value in KERAS.run(model, {"input_ids": ids}).items()}
        assert_close(found, wanted, "equal")
    assert set(served.signatures["serving_default"].structured_outputs) == set(wanted)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*is deprecated", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("mem_len", [5, 0])
@each_transfo_xl
def test_torch_traces_tuples(case, mem_len):
    """With and without memory, labels and scores: no None, and nothing that the tracer cannot type, in a tuple."""
    torch = pytest.importorskip("torch")
    config = case.config(mem_len=mem_len, return_dict=False)
    model = TORCH.model(case, config)
    inputs = inputs_for(case, config, "input_ids", "labels", T=7)
    tensors = {name: TORCH.native(value) for name, value in inputs.items()}
    for names in (["input_ids"], list(tensors)):
        given = {name: tensors[name] for name in names}
        traced = torch.jit.trace(model, example_kwarg_inputs=given, check_trace=False)
        for found, wanted in zip(traced(**given), model(**given), strict=True):
            torch.testing.assert_close(found, wanted)


def test_a_config_cannot_be_changed_behind_the_back_of_a_model():
    model = TORCH.model(LM)
    with pytest.raises(ConfigError, match=r"TransfoXLConfig: cutoffs must be set as a whole, got append in place"):
        model.config.cutoffs.append(20)
