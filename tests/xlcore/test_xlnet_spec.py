"""What the specification says of XLNet: config, parameters, their names elsewhere, and the inputs drawn for it."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from xlcore import FAMILIES, ConfigError, XLNetConfig
from xlcore.activations import ACTIVATIONS
from xlcore.families.xlnet import RELEASED, ties
from xlcore.maps import HF
from xlcore.params import ONES, ZEROS, normal
from xlcore.shapes import IGNORED_LABEL, Array, Contract

GOLDEN = Path(__file__).parents[1] / "golden"
FAMILY = FAMILIES["xlnet"]
HEADS = {head.name: head for head in FAMILY.heads}
SMALL = {"vocab_size": 20, "d_model": 12, "n_head": 3, "d_inner": 8, "n_layer": 2}


def count(name, **keys):
    """Count the numbers in the parameters of a model."""
    return sum(math.prod(param.shape) for param in FAMILY.params(XLNetConfig(**keys), HEADS[name]).values())


# ---------------------------------------------------------------------------------------------------------- config


def test_the_defaults_are_those_of_the_large_model():
    config = XLNetConfig()
    assert (config.d_model, config.n_layer, config.n_head, config.d_head, config.d_inner) == (1024, 24, 16, 64, 4096)
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (5, 1, 2)
    assert (config.mem_len, config.reuse_len, config.clamp_len) == (512, None, -1)


def test_common_names_and_old_ones_are_read_and_resolved_before_the_head_size():
    config = XLNetConfig(hidden_size=16, num_attention_heads=4, n_token=30, num_hidden_layers=3)
    assert (config.d_model, config.n_head, config.d_head, config.vocab_size, config.n_layer) == (16, 4, 4, 30, 3)
    assert (config.hidden_size, config.num_heads, config.head_dim, config.num_layers) == (16, 4, 4, 3)
    assert not set(config.to_dict()) & {"hidden_size", "num_attention_heads", "n_token"}


def test_the_head_size_follows():
    config = XLNetConfig(d_model=24, n_head=3)
    config.n_head = 4
    assert config.d_head == 6
    config.update(d_model=32)
    assert config.d_head == 8
    assert XLNetConfig(d_model=24, n_head=3, d_head=8).d_head == 8


def test_texts_have_no_longest_length():
    assert XLNetConfig().max_position_embeddings == -1
    with pytest.raises(ConfigError, match="unknown key 'max_position_embeddings'"):
        XLNetConfig(max_position_embeddings=512)


REFUSED = {
    "odd size": ({"d_model": 15, "n_head": 3}, "d_model must be even (half sines, half cosines), got 15"),
    "heads": ({"d_model": 10, "n_head": 4}, "d_model must be a multiple of n_head=4, got 10"),
    "more heads than size": ({"d_model": 2, "n_head": 4}, "d_model must be a multiple of n_head=4, got 2"),
    "head size": ({"d_model": 12, "n_head": 3, "d_head": 5}, "d_head must be d_model / n_head = 4, got 5"),
    "memory": ({"mem_len": -1}, "mem_len must be at least 0, got -1"),
    "reuse": ({"reuse_len": -2}, "reuse_len must be at least 0, got -2"),
    "direction": ({"attn_type": "left"}, "attn_type must be one of 'bi', 'uni', got 'left'"),
    "summary": (
        {"summary_type": "attn"},
        "summary_type must be one of 'last', 'first', 'mean', 'cls_index', got 'attn'",
    ),
    "activation": (
        {"ff_activation": "gleu"},
        f"ff_activation must be one of {', '.join(map(repr, ACTIVATIONS))}, got 'gleu'",
    ),
    "beams": ({"start_n_top": 0}, "start_n_top must be positive, got 0"),
    "projection": (
        {"summary_proj_to_labels": True, "num_labels": 3},
        "summary_proj_to_labels must be false unless num_labels equals d_model, got True",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_not_run_is_refused(name):
    keys, message = REFUSED[name]
    with pytest.raises(ConfigError, match=f"^XLNetConfig: {re.escape(message)}$"):
        XLNetConfig(**keys)


def test_a_projection_to_as_many_labels_as_the_size_is_the_projection():
    config = XLNetConfig(d_model=4, n_head=2, num_labels=4, summary_proj_to_labels=True)
    assert config.summary_proj_to_labels


def test_no_activation_has_two_spellings():
    assert XLNetConfig(summary_activation=None).summary_activation is None
    assert XLNetConfig(summary_activation="").summary_activation == ""


def test_a_published_config_comes_back():
    """The config.json of xlnet-base-cased, as transformers 4.34 has it."""
    published = {
        "architectures": ["XLNetLMHeadModel"], "attn_type": "bi", "bi_data": False, "bos_token_id": 1, "clamp_len": -1,
        "d_head": 64, "d_inner": 3072, "d_model": 768, "dropout": 0.1, "end_n_top": 5, "eos_token_id": 2,
        "ff_activation": "gelu", "initializer_range": 0.02, "layer_norm_eps": 1e-12, "mem_len": None,
        "model_type": "xlnet", "n_head": 12, "n_layer": 12, "pad_token_id": 5, "reuse_len": None, "same_length": False,
        "start_n_top": 5, "summary_activation": "tanh", "summary_last_dropout": 0.1, "summary_type": "last",
        "summary_use_proj": True, "untie_r": True, "vocab_size": 32000,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 250}},
    }  # fmt: skip
    config = XLNetConfig.from_dict(published)
    written = json.loads(config.to_json_string())
    assert {key: written[key] for key in published} == published
    released = XLNetConfig(**RELEASED["xlnet-base-cased"])
    assert {key: value for key, value in released.to_dict().items() if published.get(key, value) != value} == {}


# ------------------------------------------------------------------------------------------------------ parameters


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("xlnet-base-cased", (116_718_336, 116_750_336, 117_310_466, 119_083_010)),
        ("xlnet-large-cased", (360_268_800, 360_300_800, 361_320_450, 364_470_274)),
    ],
)
def test_released_models_have_their_known_number_of_parameters(name, counts):
    heads = ("XLNetModel", "XLNetLMHeadModel", "XLNetForSequenceClassification", "XLNetForQuestionAnswering")
    assert tuple(count(head, **RELEASED[name]) for head in heads) == counts


def test_the_other_heads_have_their_known_number_of_parameters():
    base = RELEASED["xlnet-base-cased"]
    assert count("XLNetForQuestionAnsweringSimple", **base) == 116_719_874
    assert count("XLNetForTokenClassification", **base) == 116_719_874
    assert count("XLNetForMultipleChoice", **base) == 117_309_697


def test_every_released_model_is_counted_here():
    assert set(RELEASED) == {"xlnet-base-cased", "xlnet-large-cased"}
    assert FAMILY.released is RELEASED


def test_the_word_table_is_shared_as_the_config_says():
    assert ties(XLNetConfig(**SMALL)) == {"lm_head.weight": "embedding.weight"}
    untied = XLNetConfig(tie_word_embeddings=False, **SMALL)
    assert ties(untied) == {}
    assert FAMILY.params(untied, HEADS["XLNetLMHeadModel"])["lm_head.weight"].shape == (20, 12)


def test_initial_values_follow_the_config():
    table = FAMILY.params(XLNetConfig(initializer_range=0.3, **SMALL), HEADS["XLNetForSequenceClassification"])
    starts = {
        "mask_embedding": normal(0.3),
        "embedding.weight": normal(0.3),
        "blocks.1.attention.segment_embedding": normal(0.3),
        "blocks.1.attention.content_bias": normal(0.3),
        "blocks.0.attention_norm.weight": ONES,
        "blocks.0.feed_forward.inner.bias": ZEROS,
        "sequence_summary.projection.weight": normal(0.3),
        "score.bias": ZEROS,
    }
    assert {name: table[name].init for name in starts} == starts
    bare = FAMILY.params(XLNetConfig(summary_use_proj=False, **SMALL), HEADS["XLNetForSequenceClassification"])
    assert table.keys() - bare.keys() == {"sequence_summary.projection.weight", "sequence_summary.projection.bias"}


def golden_cases():
    """List the cases of the reference."""
    return sorted(GOLDEN.glob("xlnet-*.safetensors"))


def test_there_are_golden_cases():
    assert len(golden_cases()) == 26
    assert {json.loads(safe_open(file, "np").metadata()["case"])["head"] for file in golden_cases()} == HEADS.keys()


@pytest.mark.parametrize("file", golden_cases(), ids=lambda file: file.stem)
def test_names_and_shapes_are_those_of_the_reference(file):
    with safe_open(file, "np") as opened:
        case = json.loads(opened.metadata()["case"])
        names = [name for name in opened.keys() if name.startswith("weights/")]  # noqa: SIM118  # no mapping
        theirs = {name.removeprefix("weights/"): tuple(opened.get_slice(name).get_shape()) for name in names}
    config, head, weights = XLNetConfig(**case["config"]), HEADS[case["head"]], HF["xlnet"]
    params = FAMILY.params(config, head)
    table = params | {alias: params[first] for alias, first in FAMILY.ties_within(config, head).items()}
    assert weights.shapes(table, config.sizes) == {weights.full_name(name): shape for name, shape in theirs.items()}


# ----------------------------------------------------------------------------------------------------- drawn inputs

SIZES = {"B": 50, "T": 9, "P": 4, "K": 3, "C": 2, "V": 20}


def drawn(axes, kind, seed=0):
    """Draw one array."""
    return Contract(x=Array(axes, kind)).draw(SIZES, seed, ["x"])["x"]


def test_drawn_orders_hide_from_each_what_comes_later():
    hidden = drawn("B T T", "orders")
    assert set(np.unique(hidden)) == {0.0, 1.0}
    for one in hidden:
        ordered = one.any(0)  # somebody does not see it
        assert np.array_equal(np.diagonal(one), ordered)  # nobody who is hidden sees himself
        assert np.array_equal(one[~ordered], np.broadcast_to(ordered, one[~ordered].shape))
        among = one[np.ix_(ordered, ordered)]
        assert sorted(among.sum(-1)) == list(range(1, len(among) + 1))  # the last sees all but itself
    assert 0.3 < hidden.any(1).mean() < 0.7


def test_drawn_places_are_one_each_and_all_different():
    places = drawn("B P T", "places")
    assert (places.sum(-1) == 1).all()
    assert (places.sum(-2) <= 1).all()
    assert len(np.unique(places.argmax(-1))) == SIZES["T"]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("keep", {0, 1}), ("hide", {0, 1}), ("truth", {0, 1}), ("types", {0, 1, 2}), ("classes", {0, 1, 2}),
        ("tags", {0, 1, 2, IGNORED_LABEL}), ("choices", {0, 1}), ("positions", {0, 1, 2, 3}),
    ],
)  # fmt: skip
def test_drawn_values_are_all_that_there_are_and_no_other(kind, values):
    assert set(np.unique(drawn("B T", kind))) == values
