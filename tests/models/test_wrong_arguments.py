"""Wrong arguments of what is no call: loading, saving, resizing, memory, generation; and arrays of other kinds."""

import re

import numpy as np
import pytest

from tests.helpers import BODY, HEADS, KERAS, LM, TORCH, XLM, XLNET, assert_close, each_side
from xlcore import ConfigError, FormatError, ShapeError, WeightError

IDS = np.array([[2, 3, 4], [5, 6, 7]])
EMBEDS = np.random.default_rng(0).standard_normal((2, 3, 12)).astype("float32")


def memory(*shape):
    """Make a list of two memories of one shape."""
    return [np.zeros(shape, "float32") for _ in range(2)]


@pytest.mark.parametrize("case", HEADS[:3], ids=str)
@each_side
def test_memory_that_is_no_list(side, case):
    model = side.model(case)
    stacked = np.zeros((2, 4, 2, 12), "float32")
    for mems, got in ((3, "int"), (stacked, "Tensor"), (dict(enumerate(memory(4, 2, 12))), "dict")):
        with pytest.raises(ShapeError, match=rf"XLModel: mems must be a list of 2 arrays, one a layer, got \w*{got}$"):
            side.call(model, {"input_ids": IDS, "mems": mems})


@each_side
def test_a_config_of_another_kind_in_place_of_the_one_of_a_folder(side, tmp_path):
    model = side.model(BODY)
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"TransfoXLModel: config must be a TransfoXLConfig, got dict$"):
        type(model).from_pretrained(tmp_path, config=model.config.to_dict())
    assert type(model).from_pretrained(tmp_path, config=model.config, dropout=0.3).config.dropout == 0.3


@each_side
def test_a_folder_without_a_name_is_not_the_current_one(side, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, message = side.model(BODY), r"save_pretrained: path must name a folder, got ''; '\.' is the current one"
    for save in (model.save_pretrained, model.config.save_pretrained):
        with pytest.raises(FormatError, match=message):
            save("")
    assert not list(tmp_path.iterdir())
    model.save_pretrained(".")
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("keys", "got"),
    [
        ({"n_layer": 3}, "blocks.2.attention.query.weight none for [15, 12], .* and 12 more"),
        ({"n_layer": 1}, "blocks.1.attention.content_bias [3, 5] for none, .* and 12 more"),
        (
            {"d_inner": 21},
            "blocks.0.feed_forward.inner.weight [20, 12] for [21, 12], blocks.0.feed_forward.inner.bias [20] for [21], "
            "blocks.0.feed_forward.outer.weight [12, 20] for [12, 21] and 3 more",
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("case", HEADS[:3], ids=str)
@each_side
def test_a_config_that_describes_the_model_no_longer(side, case, keys, got, tmp_path):
    """Its keys can be changed, but nothing is saved that could not be loaded; set back, all is well."""
    model = side.model(case)
    before = {name: getattr(model.config, name) for name in keys}
    model.config.update(**keys)
    wanted = re.escape(got).replace(re.escape(".*"), ".*")
    message = rf"{case.head.name}: config must describe the parameters as they are, got {wanted}$"
    with pytest.raises(WeightError, match=message):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    model.config.update(**before)
    model.save_pretrained(tmp_path / "model")
    assert_close(side.weights(side.model_class(case).from_pretrained(tmp_path / "model")), side.weights(model), "equal")


@each_side
def test_a_size_that_is_no_number(side):
    model = side.model(LM)
    with pytest.raises(
        ConfigError, match=r"^resize_token_embeddings: new_num_tokens must be a whole number, got None$"
    ):
        model.resize_token_embeddings(None)
    with pytest.raises(ConfigError, match=r"^resize_token_embeddings: layer must be a whole number, got 1\.5$"):
        model.resize_token_embeddings(40, 1.5)


@each_side
def test_fewer_than_no_new_words(side):
    model = side.model(LM)
    for count, condition in ((-1, "be at least 0"), (None, "be a whole number"), (2.0, "be a whole number")):
        with pytest.raises(ConfigError, match=f"^generate: max_new_tokens must {condition}, got {count}$"):
            side.towers.generate(model, side.native(IDS), count)
    np.testing.assert_array_equal(side.numpy(side.towers.generate(model, side.native(IDS), 0)), IDS)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"eos_token_id": 2.5}, "eos_token_id must be a whole number, got 2.5"),
        ({"eos_token_id": -1}, "eos_token_id must be at least 0, got -1"),
        ({"pad_token_id": -100}, "pad_token_id must be at least 0, got -100"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"temperature": float("nan")}, "temperature must be .*, got nan"),
        ({"temperature": -1}, r"temperature must lie in \[0, inf\], got -1"),
        ({"use_mems": "no"}, "use_mems must be true or false, got 'no'"),
    ],
    ids=str,
)
@each_side
def test_what_generation_is_told(side, keys, told):
    with pytest.raises(ConfigError, match=f"^generate: {told}"):
        side.towers.generate(side.model(XLNET["permutation_lm"]), side.native(IDS), 2, **keys)


@each_side
def test_which_scores_are_kept(side):
    """A number of last positions, or positions; nothing else."""
    model, ids = side.model(XLNET["permutation_lm"]), {"input_ids": IDS}
    scores = side.run(model, ids)["logits"]
    for chosen, wanted in ((2, scores[:, -2:]), (1, scores[:, -1:]), (0, scores)):
        assert_close(side.run(model, {**ids, "logits_to_keep": chosen})["logits"], wanted, "equal")
    places = side.native(np.array([2, 0]))
    assert_close(side.numpy(side.call(model, {**ids, "logits_to_keep": places}).logits), scores[:, [2, 0]], "equal")
    for wrong in (None, True, 1.5, [1]):
        with pytest.raises(ConfigError, match=r"LMHeadModel: logits_to_keep must be a number or a tensor .*, got"):
            side.run(model, {**ids, "logits_to_keep": wrong})


def test_memory_carried_for_a_model_without():
    pytest.importorskip("tensorflow")
    model, carry = KERAS.model(XLM["word_lm"]), KERAS.towers.CarryMemory(2)
    model.compile("sgd", run_eagerly=True)
    with pytest.raises(ConfigError, match=r"^CarryMemory: model must have a memory, got TFXLMWithLMHeadModel$"):
        model.fit({"input_ids": IDS, "labels": IDS}, callbacks=[carry], verbose=0)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_metrics_without_a_loss():
    """The model's own loss takes labels by names of its own."""
    pytest.importorskip("tensorflow")
    model = KERAS.model(XLNET["sequence_classification"])
    model.compile("sgd", metrics={"logits": ["accuracy"]}, run_eagerly=True)
    with pytest.raises(ConfigError, match="Classification: compile must get a loss where it gets metrics, got none"):
        model.fit(IDS, np.array([0, 1]), verbose=0)


@each_side
def test_a_memory_of_no_length_or_rows(side):
    model = side.model(LM)
    name = type(model.body()).__name__
    with pytest.raises(ConfigError, match=f"^{name}: mem_len must be a whole number, got None$"):
        model.reset_memory_length(None)
    for rows, condition in ((0, "be positive"), (-2, "be positive"), (None, "be a whole number")):
        with pytest.raises(ConfigError, match=f"^{name}: batch_size must {condition}, got {rows}$"):
            model.carry_memory(rows)
    assert not model.body().carried.active


def test_arrays_of_numpy_given_to_torch():
    """Each input by its name, in each head."""
    model = TORCH.model(LM)
    ids = TORCH.native(IDS)
    for inputs, name, got in (
        ({"input_ids": IDS}, "TransfoXLModel: input_ids", "ndarray"),
        ({"input_ids": IDS.tolist()}, "TransfoXLModel: input_ids", "list"),
        ({"inputs_embeds": EMBEDS}, "TransfoXLModel: inputs_embeds", "ndarray"),
        ({"input_ids": ids, "mems": memory(4, 2, 12)}, r"TransfoXLModel: mems\[0\]", "ndarray"),
        ({"input_ids": ids, "labels": IDS}, "TransfoXLLMHeadModel: labels", "ndarray"),
    ):
        with pytest.raises(ShapeError, match=f"^{name} must be (a Tensor|an array), got {got}$"):
            model(**inputs)


@pytest.mark.parametrize("ids", [[[1, 2]], [1, 2], ((1, 2),)], ids=str)
def test_lists_given_to_keras(ids):
    kind = type(ids).__name__
    with pytest.raises(ShapeError, match=rf"^TFTransfoXLModel: input_ids must be an array, got {kind}; numpy\.array"):
        KERAS.model(BODY)(ids)


def test_nothing_in_place_of_a_tensor():
    """A state dict under foreign names, one of them empty."""
    model = TORCH.model(BODY)
    state = {"layers.0.pos_ff.CoreNet.0.bias": None}
    with pytest.raises(WeightError, match=r"TransfoXLModel: '.*CoreNet\.0\.bias' must be a tensor, got NoneType"):
        model.load_state_dict(state, strict=False)
