"""Wrong inputs meet one clear message: `<where>: <what> must <condition>, got <value>`."""

import re

import numpy as np
import pytest

from tests.helpers import (
    BODY,
    CLASSIFIER,
    HEADS,
    LM,
    TORCH,
    XLNET,
    Case,
    assert_close,
    each_head,
    each_side,
    inputs_for,
)
from xlcore import ConfigError, ShapeError, TransfoXLConfig, WeightError

PATTERN = re.compile(r"(TF)?\w+: .+ must .+, got .+", re.DOTALL)


def refused(side, case, inputs, message, kind=ShapeError, model=None):
    """Call a model with wrong inputs and hold the error against its message, `Model` standing for its class."""
    model = model or side.model(case)
    with pytest.raises(kind) as caught:
        side.call(model, inputs)
    said = str(caught.value)
    assert PATTERN.fullmatch(said), said
    prefix = "" if side is TORCH else "TF"
    body, embedding = case.family.heads[0].name, "AdaptiveEmbedding" if case in HEADS[:3] else "Embedding"
    wanted = message.replace("Head:", f"{prefix}{case.head.name}:").replace("Body:", f"{prefix}{body}:")
    assert said == wanted.replace("Embedding:", f"{prefix}{embedding}:")


IDS = np.array([[2, 3, 4], [5, 6, 7]])
EMBEDS = np.random.default_rng(0).standard_normal((2, 3, 12)).astype("float32")


def memory(*shape, layers=2):
    """Make a list of memories of one shape."""
    return [np.zeros(shape, "float32") for _ in range(layers)]


BODY_ERRORS = {
    "neither ids nor embeddings": ({}, "Body: input must be either input_ids or inputs_embeds, got none"),
    "both": (
        {"input_ids": IDS, "inputs_embeds": EMBEDS},
        "Body: input must be either input_ids or inputs_embeds, got both",
    ),
    "ids of one axis": ({"input_ids": IDS[0]}, "Body: input_ids must have shape [B, T], got [3]"),
    "ids of three axes": ({"input_ids": IDS[None]}, "Body: input_ids must have shape [B, T], got [1, 2, 3]"),
    "no position": ({"input_ids": IDS[:, :0]}, "Body: a segment must have at least one position, got 0"),
    "no position in embeddings": (
        {"inputs_embeds": EMBEDS[:, :0]},
        "Body: a segment must have at least one position, got 0",
    ),
    "embeddings of two axes": (
        {"inputs_embeds": EMBEDS[0]},
        "Body: inputs_embeds must have shape [B, T, D=12], got [3, 12]",
    ),
    "embeddings too narrow": (
        {"inputs_embeds": EMBEDS[..., :5]},
        "Body: inputs_embeds must have shape [B, T, D=12], got [2, 3, 5]",
    ),
    "id above": ({"input_ids": IDS + 25}, "Embedding: ids must lie in [0, 31), got 32"),
    "id at the end": ({"input_ids": np.array([[2, 31]])}, "Embedding: ids must lie in [0, 31), got 31"),
    "id below": ({"input_ids": IDS - 3}, "Embedding: ids must lie in [0, 31), got -1"),
    "one memory for two layers": (
        {"input_ids": IDS, "mems": memory(4, 2, 12, layers=1)},
        "Body: mems must be a list of 2 arrays, one a layer, got 1",
    ),
    "memory of another batch": (
        {"input_ids": IDS, "mems": memory(4, 3, 12)},
        "Body: mems[0] must have shape [M, B=2, D=12], got [4, 3, 12]",
    ),
    "memory batch first": (
        {"input_ids": IDS, "mems": memory(2, 4, 12)},
        "Body: mems[0] must have shape [M, B=2, D=12], got [2, 4, 12]",
    ),
    "memory too wide": (
        {"input_ids": IDS, "mems": memory(4, 2, 13)},
        "Body: mems[0] must have shape [M, B=2, D=12], got [4, 2, 13]",
    ),
    "memory of two axes": (
        {"input_ids": IDS, "mems": memory(4, 12)},
        "Body: mems[0] must have shape [M, B=2, D=12], got [4, 12]",
    ),
    "memories of two lengths": (
        {"input_ids": IDS, "mems": memory(4, 2, 12, layers=1) + memory(3, 2, 12, layers=1)},
        "Body: mems[1] must have shape [M=4, B=2, D=12], got [3, 2, 12]",
    ),
    "head mask too long": (
        {"input_ids": IDS, "head_mask": np.ones(4, "float32")},
        "Body: head_mask must have shape [N=3] or [L=2, N=3], got [4]",
    ),
    "head mask of other layers": (
        {"input_ids": IDS, "head_mask": np.ones((3, 3), "float32")},
        "Body: head_mask must have shape [N=3] or [L=2, N=3], got [3, 3]",
    ),
    "head mask of three axes": (
        {"input_ids": IDS, "head_mask": np.ones((1, 2, 3), "float32")},
        "Body: head_mask must have shape [N=3] or [L=2, N=3], got [1, 2, 3]",
    ),
}


# The rest of the heads hand their inputs to the body like these.
READERS = [*HEADS[:3], XLNET["base"], XLNET["permutation_lm"], XLNET["beam_question_answering"]]


@pytest.mark.parametrize("name", BODY_ERRORS)
@pytest.mark.parametrize("case", READERS, ids=str)
@each_side
def test_wrong_inputs(side, case, name):
    """Alike through every head: the body checks what it reads."""
    refused(side, case, *BODY_ERRORS[name])


@each_side
def test_ids_that_are_no_whole_numbers(side):
    with pytest.raises(ShapeError, match=r"input_ids must .*whole numbers.*, got .*float32"):
        side.call(side.model(BODY), {"input_ids": IDS.astype("float32")})


LABELS = np.array([[2, 3, 4], [-100, 6, 7]])
COLUMNS = "Head: labels must have 3 columns, or 4 with the word after the last, and at least 2, got "
LM_ERRORS = {
    "too few columns": (LABELS[:, :2], COLUMNS + "2"),
    "too many columns": (np.tile(LABELS, 2)[:, :5], COLUMNS + "5"),
    "another batch": (LABELS[:1], "Head: labels must have shape [B=2, U], got [1, 3]"),
    "one axis": (LABELS[0], "Head: labels must have shape [B=2, U], got [3]"),
    "label above": (LABELS + 25, "Head: labels must lie in [0, 31) or be -100, got -75"),
    "label at the end": (
        np.where(LABELS == 4, 31, LABELS),
        "Head: labels must lie in [0, 31) or be -100, got 31",
    ),
    "another negative label": (
        np.where(LABELS == 4, -1, LABELS),
        "Head: labels must lie in [0, 31) or be -100, got -1",
    ),
}


@pytest.mark.parametrize("name", LM_ERRORS)
@pytest.mark.parametrize("variant", ["default", "no_cutoffs"])
@each_side
def test_wrong_labels_of_a_language_model(side, variant, name):
    labels, message = LM_ERRORS[name]
    refused(side, Case(LM.family, LM.head, variant), {"input_ids": IDS, "labels": labels}, message)


@each_side
def test_one_word_with_labels(side):
    """A word alone predicts nothing, unless the labels say what follows it."""
    ids = IDS[:, :1]
    message = "Head: labels must have 1 columns, or 2 with the word after the last, and at least 2, got 1"
    refused(side, LM, {"input_ids": ids, "labels": ids}, message)
    model = side.model(LM)
    found = side.run(model, {"input_ids": ids, "labels": IDS[:, :2], "output_scores": True})
    wanted = -found["prediction_scores"][[0, 1], 0, IDS[:, 1]]
    assert_close(found["losses"], wanted[:, None], "equal")


CLASSIFIER_ERRORS = {
    "another batch": (np.array([0, 1, 2]), "Head: labels must have shape [B=2], got [3]"),
    "three axes": (np.zeros((2, 1, 3)), "Head: labels must have shape [B=2, K=3] or [B=2], got [2, 1, 3]"),
}


@pytest.mark.parametrize("name", CLASSIFIER_ERRORS)
@each_side
def test_wrong_labels_of_a_classifier(side, name):
    labels, message = CLASSIFIER_ERRORS[name]
    model = side.model(CLASSIFIER)
    with pytest.raises(ShapeError) as caught:
        side.call(model, {"input_ids": IDS, "labels": labels})
    assert PATTERN.fullmatch(str(caught.value)), caught.value
    assert message.split("got")[1] in str(caught.value)
    assert ": labels must have shape [" in str(caught.value)


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        ("multi_label_classification", np.zeros((2, 2), "float32")),
        ("multi_label_classification", np.zeros(2, "float32")),
        ("single_label_classification", np.zeros((2, 3), "int64")),
        ("single_label_classification", np.array([0, 3])),
        ("single_label_classification", np.array([0, -1])),
        ("regression", np.zeros(2, "float32")),
    ],
    ids=["two of three columns", "one column", "classes in columns", "class above", "class below", "numbers for three"],
)
@each_side
def test_labels_that_do_not_fit_the_problem(side, problem_type, labels):
    """What would fail deep in a framework, or worse, broadcast or pick any class."""
    model = side.model(CLASSIFIER, CLASSIFIER.config(problem_type=problem_type))
    with pytest.raises(ShapeError, match=r"labels must .*, got "):
        side.call(model, {"input_ids": IDS, "labels": labels})


@each_side
def test_a_batch_for_a_classifier_without_padding_id(side):
    config = CLASSIFIER.config(pad_token_id=None)
    model = side.model(CLASSIFIER, config)
    message = "Head: a batch must have one row without config.pad_token_id, got 2"
    refused(side, CLASSIFIER, {"input_ids": IDS}, message, model=model)
    refused(side, CLASSIFIER, {"inputs_embeds": EMBEDS}, message, model=model)
    alone = side.run(model, {"input_ids": IDS[:1]})["logits"]
    assert_close(alone, side.run(side.model(CLASSIFIER), {"input_ids": IDS})["logits"][:1], "equal")


@each_side
def test_a_classifier_warns_where_it_cannot_see_padding(side):
    inputs = inputs_for(CLASSIFIER, CLASSIFIER.config(), "inputs_embeds")
    with pytest.warns(UserWarning, match="ForSequenceClassification: padding cannot be seen in inputs_embeds"):
        side.call(side.model(CLASSIFIER), inputs)


@each_head
@each_side
def test_a_config_of_another_kind(side, case):
    for config, got in (({"vocab_size": 31}, "dict"), (None, "NoneType"), ("transfo-xl-wt103", "str")):
        wanted = case.family.config.__name__
        with pytest.raises(ConfigError, match=rf"{case.head.name}: config must be a {wanted}, got {got}$"):
            side.model_class(case)(config)


@pytest.mark.parametrize(
    ("size", "layer", "message"),
    [
        (22, 0, "resize_token_embeddings: bin 0 must keep an id, got 0 of 9"),
        (0, -1, "resize_token_embeddings: bin 2 must keep an id, got -17 of 14"),
        (40, 3, "resize_token_embeddings: layer must lie in [-3, 3), got 3"),
        (40, -4, "resize_token_embeddings: layer must lie in [-3, 3), got -4"),
    ],
)
@each_side
def test_an_impossible_resize_leaves_the_model_as_it_was(side, size, layer, message):
    model = side.model(LM)
    before = side.run(model, {"input_ids": IDS})
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        model.resize_token_embeddings(size, layer)
    assert_close(side.run(model, {"input_ids": IDS}), before, "equal")


@each_side
def test_a_folder_that_does_not_fit(side, tmp_path):
    side.model(LM).save_pretrained(tmp_path)
    wrong = LM.config(n_layer=3)
    with pytest.raises(WeightError, match=r"tensors must fit TransfoXLLMHeadModel, got missing: .*layers\.2\."):
        side.model_class(LM).from_pretrained(tmp_path, config=wrong)
    with pytest.raises(WeightError, match=r"must fit TransfoXLLMHeadModel, got other shapes: .*\[20\] for \[21\]"):
        side.model_class(LM).from_pretrained(tmp_path, d_inner=21)
    assert isinstance(side.model_class(LM).from_pretrained(tmp_path).config, TransfoXLConfig)


@each_side
def test_a_dtype_under_its_old_name_is_refused(side, tmp_path):
    side.model(BODY).save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"torch_dtype must be given as dtype, got 'float16'"):
        type(side.model(BODY)).from_pretrained(tmp_path / "model", torch_dtype="float16")


@each_side
def test_scores_of_fewer_than_no_positions(side):
    with pytest.raises(ShapeError, match=r"logits_to_keep must be at least 0 \(0 for all\), got -3"):
        side.call(side.model(LM), {"input_ids": IDS, "logits_to_keep": -3})


@each_side
def test_a_carried_memory_keeps_its_length(side):
    model = side.model(BODY)
    model.carry_memory(2)
    with pytest.raises(ConfigError, match=r"memory's length must stay while it is carried, got 3"):
        model.reset_memory_length(3)
