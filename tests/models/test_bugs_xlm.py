"""Bugs that users of other XLMs met, each by its number in the collection of reports, and quirks that are left out.

M7 to M10 concern the tokenizer: `tests/xlcore/test_xlm_tokenizer.py`.
"""

import numpy as np
import pytest

from tests.helpers import KERAS, TORCH, XLM, Case, assert_close, each_side, far, flat, inputs_for, random_weights
from tests.models.test_bugs import replica
from xlcore import WeightError, XLMConfig

BODY, LM, TEXTS = XLM["base"], XLM["word_lm"], XLM["sequence_classification"]
each_model = pytest.mark.parametrize("case", XLM.values(), ids=str)


@each_side
def test_m1_generation_reads_the_last_word_and_its_language(side):
    """A causal model goes on from the last word, not from a mask behind it, and in the language that it is told."""
    config = LM.config(causal=True, lang_id=1)
    weights = random_weights(LM, config)
    weights["embedding_of_languages.weight"] *= 10
    model, ids = side.model(LM, config, weights=weights), inputs_for(LM, config, "input_ids", T=4)["input_ids"]
    scores = side.run(model, {"input_ids": ids, "langs": np.ones_like(ids)})["logits"][:, -1]
    texts = side.numpy(side.towers.generate(model, side.native(ids), 1))
    np.testing.assert_array_equal(texts[:, -1], scores.argmax(-1))
    chance = {"temperature": 3.0, "seed": 3}
    several = [side.towers.generate(model, side.native(ids), 4, lang=lang, **chance) for lang in (0, 1, 2)]
    assert len({side.numpy(texts).tobytes() for texts in several}) == 3


@each_side
def test_m2_features_are_as_wide_as_the_model_and_scores_as_the_vocabulary(side):
    """And are called what they are; features of a language model's file come from the body alone."""
    ids = inputs_for(LM, LM.config(), "input_ids")
    scores, features = side.run(side.model(LM), ids), side.run(side.model(BODY), ids)
    assert {name: value.shape for name, value in scores.items()} == {"logits": (2, 6, 31)}
    assert {name: value.shape for name, value in features.items()} == {"last_hidden_state": (2, 6, 12)}


@each_side
def test_m2_the_body_of_a_saved_language_model(side, tmp_path):
    side.model(LM).save_pretrained(tmp_path)
    body, info = side.model_class(BODY).from_pretrained(tmp_path, output_loading_info=True)
    assert info.other_head_keys
    assert not info.missing_keys + info.unexpected_keys
    wanted = {name: value for name, value in random_weights(LM, LM.config()).items() if not name.startswith("lm_head")}
    assert_close(side.weights(body), wanted, "equal")


@pytest.mark.parametrize("case", [LM, XLM["question_answering"]], ids=str)
@each_side
def test_m3_a_vocabulary_of_another_size_is_named(side, case, tmp_path):
    """Not the default's 30145 rows filled by chance, and no stack of tensors: the folder's own config counts."""
    side.model(case).save_pretrained(tmp_path)
    assert side.model_class(case).from_pretrained(tmp_path).config.vocab_size == 31
    with pytest.raises(WeightError, match=r"transformer\.embeddings\.weight \[31, 12\] for \[40, 12\]"):
        side.model_class(case).from_pretrained(tmp_path, vocab_size=40)


@each_model
def test_m4_what_torch_has_saved_keras_loads(case, tmp_path):
    """There is no second set of weights that could be missing."""
    model, inputs = TORCH.model(case), inputs_for(case, case.config(), "input_ids", "langs")
    model.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    loaded = KERAS.model_class(case).from_pretrained(tmp_path)
    assert_close(KERAS.run(loaded, inputs), TORCH.run(model, inputs), "equal")


@pytest.mark.parametrize("case", [BODY, XLM["multiple_choice"], XLM["beam_question_answering"]], ids=str)
def test_m5_functional_models_of_free_length_are_saved_and_loaded(case, tmp_path):
    keras = pytest.importorskip("keras")
    if case.head.kind == "multiple_choice":
        shape, texts = (2, None), {"C": 2}
    else:
        shape, texts = (None,), {}
    layer = KERAS.model(case)
    names = ["input_ids", "attention_mask", "langs"]
    given = {name: keras.Input(shape, dtype="int32", name=name) for name in names}
    outputs = layer(given)
    model = keras.Model(given, outputs[0] if case.head.kind != "beam_question_answering" else outputs["cls_logits"])
    model.save(tmp_path / "around.keras")
    loaded = keras.models.load_model(tmp_path / "around.keras")
    for T in (6, 4):
        inputs = inputs_for(case, layer.config, "input_ids", "langs", T=T)
        inputs["attention_mask"] = np.ones_like(inputs["input_ids"])
        inputs = {name: value.astype("int32") for name, value in inputs.items()}
        found = KERAS.run(layer, inputs)
        wanted = found["cls_logits"] if case.head.kind == "beam_question_answering" else next(iter(found.values()))
        assert_close(loaded.predict(inputs, verbose=0), wanted, "equal", f"{texts} {T}")


def test_m6_a_model_is_built_anew_for_every_fold():
    """Within the scope of a strategy; each fold trains and starts from the same weights."""
    tf = pytest.importorskip("tensorflow")
    keras = pytest.importorskip("keras")
    config = TEXTS.config(n_layers=1, dropout=0.0, attention_dropout=0.0, summary_first_dropout=0.0)
    drawn = inputs_for(TEXTS, config, "input_ids", "langs", "labels", B=4)
    losses = []
    for _ in range(2):
        strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
        with strategy.scope():
            model = KERAS.model(TEXTS, config)
            model.compile(keras.optimizers.Adam(0.01), jit_compile=False)
        history = model.fit(drawn, batch_size=2, epochs=2, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
    assert losses[0] == losses[1]
    assert losses[0][1] < losses[0][0]


# --------------------------------------------------------------------------------------- quirks that are left out


@pytest.mark.parametrize("variant", ["default", "untied"])
@pytest.mark.parametrize("size", [40, 20])
@each_side
def test_a_resized_vocabulary_can_be_trained(side, size, variant):
    """Others crash in the loss, for they look the size up where it was not changed."""
    case = Case(LM.family, LM.head, variant)
    model, ids = side.model(case), np.array([[2, 3, 19]])
    before = side.run(model, {"input_ids": ids})["logits"]
    model.resize_token_embeddings(size)
    after = side.run(model, {"input_ids": ids})["logits"]
    assert after.shape == (1, 3, size)
    assert_close(after[..., :20], before[..., :20], "equal")
    inputs = inputs_for(case, model.config, "input_ids", "labels")
    outputs, gradients = side.both(model, inputs)
    assert np.isfinite(outputs["loss"])
    assert gradients["lm_head.bias"].shape == (size,)


@each_side
def test_each_call_decides_what_its_labels_mean(side):
    """Others write the first guess into the config, and take later labels for what they are not."""
    model, inputs = side.model(TEXTS), inputs_for(TEXTS, TEXTS.config(), "input_ids")
    classes = side.run(model, {**inputs, "labels": np.array([0, 2])})["loss"]
    several = side.run(model, {**inputs, "labels": np.array([[1.0, 0, 1], [0, 0, 1]], "float32")})["loss"]
    assert model.config.problem_type is None
    assert side.run(model, {**inputs, "labels": np.array([0, 2])})["loss"] == classes
    assert far(classes, several) > 1e-3


@each_side
def test_labels_are_never_changed(side):
    """Others squeeze the caller's own tensors."""
    case = XLM["beam_question_answering"]
    inputs = inputs_for(case, case.config(), "input_ids")
    given = {name: side.native(np.array([[1], [2]])) for name in ("start_positions", "end_positions", "cls_index")}
    given["is_impossible"] = side.native(np.array([[0], [1]]))  # whole numbers, which others refuse
    loss = side.call(side.model(case), {**inputs, **given}).loss
    assert np.isfinite(side.numpy(loss))
    assert all(tuple(value.shape) == (2, 1) for value in given.values())


@each_side
def test_nothing_to_predict_is_a_loss_of_zero(side):
    """No NaN, and a gradient that is zero."""
    for kind in ("word_lm", "token_classification", "multiple_choice"):
        case = XLM[kind]
        model, inputs = side.model(case), inputs_for(case, case.config(), "input_ids", "labels")
        inputs["labels"] = np.full_like(inputs["labels"], -100)
        outputs, gradients = side.both(model, inputs)
        assert outputs["loss"] == 0.0
        assert not any(value.any() for value in gradients.values())


@each_side
def test_causal_models_take_masks_in_keras_too(side):
    """Others cannot even load them there."""
    model = side.model(BODY, BODY.config(causal=True))
    inputs = inputs_for(BODY, model.config, "input_ids") | {"attention_mask": np.array([[1, 1, 1, 1, 0, 0], [1] * 6])}
    found = side.run(model, inputs)["last_hidden_state"]
    assert not found[0, 4:].any()
    assert found[0, 3].any()


@each_model
def test_replicas_of_data_parallel(case):
    model, inputs = TORCH.model(case), inputs_for(case, case.config(), "input_ids", "langs", "labels")
    ready = {name: TORCH.native(value) for name, value in inputs.items()}
    assert_close(flat(replica(model)(**ready), TORCH.numpy), flat(model(**ready), TORCH.numpy), "equal")


def test_gradient_checkpointing_of_every_layer():
    torch = pytest.importorskip("torch")
    config = LM.config(dropout=0.4, attention_dropout=0.4)
    model, inputs = TORCH.model(LM, config), inputs_for(LM, config, "input_ids", "langs", "labels")
    passes = []
    model.transformer.blocks[1].attention.register_forward_hook(lambda *_: passes.append(1))
    found = []
    for enable in (False, True):
        if enable:
            model.gradient_checkpointing_enable()
        passes.clear()
        torch.manual_seed(3)
        found.append(TORCH.both(model, inputs, training=True))
        assert len(passes) == 1 + enable
    assert_close(found[1][0], found[0][0], "equal")
    assert_close(found[1][1], found[0][1], "equal")


def test_a_folder_of_half_precision_is_loaded_as_float32_unless_told(tmp_path):
    torch = pytest.importorskip("torch")
    TORCH.model(LM, dtype="float16").save_pretrained(tmp_path)
    assert TORCH.model_class(LM).from_pretrained(tmp_path).lm_head.weight.dtype == torch.float32
    half = TORCH.model_class(LM).from_pretrained(tmp_path, dtype=torch.float16)
    assert half.lm_head.weight.dtype == torch.float16


def test_copies_that_differ_are_two_tables(tmp_path):
    """As transformers 5 loads them; transformers 4 keeps the last one for both."""
    from safetensors.numpy import load_file, save_file

    TORCH.model(LM).save_pretrained(tmp_path)
    arrays = load_file(tmp_path / "model.safetensors")
    arrays["pred_layer.proj.weight"] = arrays["transformer.embeddings.weight"] + 1
    save_file(arrays, tmp_path / "model.safetensors", {"format": "pt"})
    assert XLMConfig.from_json_file(tmp_path / "config.json").tie_word_embeddings
    loaded = TORCH.model_class(LM).from_pretrained(tmp_path)
    assert not loaded.config.tie_word_embeddings
    assert_close(TORCH.weights(loaded)["lm_head.weight"], arrays["pred_layer.proj.weight"], "equal")
    assert_close(TORCH.weights(loaded)["embedding.weight"], arrays["transformer.embeddings.weight"], "equal")
