"""The machinery of specifications, and what it says of every family: outputs, contracts, parameters, names."""

import copy
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from xlcore import (
    FAMILIES,
    ConfigError,
    ModelOutput,
    ShapeError,
    TransfoXLConfig,
    WeightError,
    XLMConfig,
    XLMRobertaXLConfig,
    XLNetConfig,
)
from xlcore.adaptive import bins, tables
from xlcore.errors import did_you_mean
from xlcore.families import config_from_dict, family_of, find_head
from xlcore.families.transfo_xl import RELEASED, TransfoXLLMHeadModelOutput, TransfoXLModelOutput, resized, ties
from xlcore.maps import HF
from xlcore.maps.keras import is_turned, keras_name
from xlcore.params import ONES, ZEROS, Init, Param, layer_norm, linear, normal, uniform, within
from xlcore.shapes import IGNORED_LABEL, Array, Contract
from xlcore.weightmap import Row, WeightMap, same, stacked, to_ours, to_theirs

GOLDEN = Path(__file__).parents[1] / "golden"
MODELS = [(family, head) for family in FAMILIES.values() for head in family.heads]
HEADS = {head.name: head for _, head in MODELS}


def count(params) -> int:
    """Count the numbers in a parameter table."""
    return sum(math.prod(param.shape) for param in params.values())


# --------------------------------------------------------------------------------------------------------- outputs


def test_an_output_reads_by_attribute_key_position_slice_and_tuple():
    out = TransfoXLModelOutput(last_hidden_state="h", mems=["m"], attentions=("a",))
    assert out.last_hidden_state == out["last_hidden_state"] == out[0] == "h"
    assert out.attentions == out[2] == out[-1] == ("a",)
    assert out[:2] == ("h", ["m"])
    assert out.to_tuple() == ("h", ["m"], ("a",))
    assert list(out) == ["last_hidden_state", "mems", "attentions"]
    hidden, *rest = out.values()
    assert (hidden, rest) == ("h", [["m"], ("a",)])


def test_an_absent_field_reads_as_none_and_is_no_key():
    out = TransfoXLModelOutput(last_hidden_state="h", hidden_states=None)
    assert out.hidden_states is None
    assert "hidden_states" not in out
    assert len(out) == 1
    with pytest.raises(KeyError, match="hidden_states"):
        _ = out["hidden_states"]
    with pytest.raises(IndexError):
        _ = out[1]


def test_an_output_keeps_the_order_of_its_class_and_values_that_count_as_false():
    out = TransfoXLLMHeadModelOutput(loss=0.0, prediction_scores=(), losses=[])
    assert list(out.items()) == [("losses", []), ("prediction_scores", ()), ("loss", 0.0)]


def test_an_output_has_its_fields_under_other_names_too():
    out = TransfoXLLMHeadModelOutput(prediction_scores="p")
    assert out.logits == out["logits"] == out.prediction_scores == "p"
    assert list(out) == ["prediction_scores"]


def test_an_unknown_field_is_refused_with_the_known_ones():
    expected = "no field 'logits', only last_hidden_state, mems, hidden_states, attentions"
    with pytest.raises(KeyError, match=expected):
        TransfoXLModelOutput(logits=1)
    with pytest.raises(AttributeError, match=expected):
        _ = TransfoXLModelOutput().logits


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda out: pickle.loads(pickle.dumps(out))])
def test_an_output_survives_copies_and_pickles(duplicate):
    out = TransfoXLLMHeadModelOutput(losses=[1.5], loss=2.0)
    other = duplicate(out)
    assert type(other) is TransfoXLLMHeadModelOutput
    assert other == out
    assert other is not out


def test_an_output_is_rebuilt_from_pairs():
    out = TransfoXLModelOutput(last_hidden_state="h", mems=["m"])
    assert type(out)(zip(out.keys(), out.values(), strict=True)) == out
    assert type(out)(dict(out), attentions="a").attentions == "a"


def test_an_assigned_attribute_is_the_key_too():
    out = TransfoXLLMHeadModelOutput(loss=2.0)
    out.loss = 1.0
    assert out.loss == out["loss"] == out[0] == 1.0


def test_every_output_of_a_family_says_its_fields():
    for _, head in MODELS:
        assert issubclass(head.output, ModelOutput)
        assert len(set(head.output.fields)) == len(head.output.fields) > 0
        assert set(head.output.other_names.values()) <= set(head.output.fields)
        assert ("loss" in head.output.fields) == bool(head.targets)


# -------------------------------------------------------------------------------------------------------- contracts

CALL = Contract(
    ids=Array("B T", "ids"),
    mems=Array("M B D", times="L"),
    head_mask=Array("N | L N", "keep"),
    labels=Array("B U", "labels"),
    classes=Array("B", "classes"),
)
SIZES = {"B": 5, "T": 16, "M": 3, "D": 4, "L": 2, "N": 4, "U": 17, "V": 50, "K": 3}
MORE = SIZES | {"C": 2, "G": 10, "P": 7, "S": 16}  # what only some heads have


def test_a_contract_learns_the_free_axes():
    given_arrays = {"ids": np.zeros((2, 7), int), "mems": [np.zeros((3, 2, 4))] * 2, "labels": None}
    assert CALL.check("here", {"D": 4, "L": 2}, given_arrays) == {"D": 4, "L": 2, "B": 2, "T": 7, "M": 3}


def test_a_contract_leaves_the_given_sizes_alone():
    sizes = {"D": 4}
    CALL.check("here", sizes, {"ids": np.zeros((2, 7), int)})
    assert sizes == {"D": 4}


@pytest.mark.parametrize(
    ("given_arrays", "message"),
    [
        ({"ids": np.zeros(3, int)}, "here: ids must have shape [B, T], got [3]"),
        ({"ids": np.zeros((2, 3, 4), int)}, "here: ids must have shape [B, T], got [2, 3, 4]"),
        (
            {"ids": np.zeros((2, 3), int), "mems": [np.zeros((3, 2, 4)), np.zeros((3, 1, 4))]},
            "here: mems[1] must have shape [M=3, B=2, D=4], got [3, 1, 4]",
        ),
        ({"mems": [np.zeros((3, 2, 5))] * 2}, "here: mems[0] must have shape [M, B, D=4], got [3, 2, 5]"),
        ({"mems": [np.zeros((3, 2, 4))]}, "here: mems must be a list of 2 arrays, one a layer, got 1"),
        ({"mems": np.zeros((2, 3, 2, 4))}, "here: mems must be a list of 2 arrays, one a layer, got ndarray"),
        ({"head_mask": np.zeros((1, 2, 3))}, "here: head_mask must have shape [N=6] or [L=2, N=6], got [1, 2, 3]"),
        ({"head_mask": np.zeros(5)}, "here: head_mask must have shape [N=6] or [L=2, N=6], got [5]"),
    ],
)
def test_a_contract_names_argument_wanted_and_given_shape(given_arrays, message):
    with pytest.raises(ShapeError) as refused:
        CALL.check("here", {"D": 4, "L": 2, "N": 6}, given_arrays)
    assert str(refused.value) == message


def test_a_contract_takes_each_form_of_an_array():
    assert CALL.check("here", {"L": 2}, {"head_mask": np.zeros(4)})["N"] == 4
    assert CALL.check("here", {"L": 2}, {"head_mask": np.zeros((2, 4))})["N"] == 4


def test_sizes_that_a_framework_does_not_know_yet_fit_anything():
    class Symbolic:
        shape = (None, 7)

    found = CALL.check("here", {"B": 3}, {"ids": Symbolic(), "labels": np.zeros((3, 8), int)})
    assert found == {"B": 3, "T": 7, "U": 8}
    with pytest.raises(ShapeError, match=r"ids must have shape \[B=3, T=6\], got \[None, 7\]"):
        CALL.check("here", {"B": 3, "T": 6}, {"ids": Symbolic()})


def test_a_list_in_place_of_an_array_is_refused_as_a_shape_error():
    with pytest.raises(ShapeError, match="here: ids must"):
        CALL.check("here", {}, {"ids": [[1, 2], [3, 4]]})


def test_drawn_arrays_keep_the_contract_and_differ_in_every_row():
    drawn = CALL.draw(SIZES, 0, CALL)
    assert CALL.check("here", SIZES, drawn) == SIZES
    for rows in (drawn["ids"], drawn["labels"], *(memory.transpose(1, 0, 2) for memory in drawn["mems"])):
        assert len({row.tobytes() for row in np.ascontiguousarray(rows)}) == SIZES["B"]
    assert not np.array_equal(*drawn["mems"])


def test_drawn_values_stay_in_their_range():
    drawn = CALL.draw(SIZES, 1, CALL)
    assert drawn["ids"].min() >= 0
    assert 40 < drawn["ids"].max() < SIZES["V"]
    assert drawn["head_mask"].shape == (2, 4)
    assert set(np.unique(drawn["head_mask"])) == {0.0, 1.0}
    labels = drawn["labels"]
    assert 0 < (labels == IGNORED_LABEL).sum() < labels.size / 2
    assert np.isin(labels[labels != IGNORED_LABEL], range(SIZES["V"])).all()
    assert np.isin(drawn["classes"], range(SIZES["K"])).all()
    assert drawn["mems"][0].dtype == np.float32


def test_the_seed_decides_what_is_drawn():
    first, again, other = (CALL.draw(SIZES, seed, ["ids", "mems"]) for seed in (3, 3, 4))
    assert np.array_equal(first["ids"], again["ids"])
    assert np.array_equal(first["mems"][1], again["mems"][1])
    assert not np.array_equal(first["ids"], other["ids"])


def test_joined_contracts_are_contracts():
    joined = Contract(a=Array("B")) | {"b": Array("B T")}
    assert isinstance(joined, Contract)
    assert joined.check("here", {}, {"a": np.zeros(2), "b": np.zeros((2, 3))}) == {"B": 2, "T": 3}


@pytest.mark.parametrize(("family", "head"), MODELS, ids=[head.name for _, head in MODELS])
def test_every_head_can_draw_its_inputs(family, head):
    drawn = head.inputs.draw(MORE, 0, head.inputs)
    assert drawn.keys() == head.inputs.keys()
    head.inputs.check(head.name, MORE, drawn)


# ----------------------------------------------------------------------------------------------- parameters and bins


def test_helpers_list_parameters():
    assert linear("out", 3, 5, normal(0.1)) == {
        "out.weight": Param((5, 3), Init("normal", 0.0, 0.1), "linear"),
        "out.bias": Param((5,), ZEROS, "linear"),
    }
    assert list(linear("out", 3, 5, uniform(0.2), bias=False)) == ["out.weight"]
    assert uniform(0.2) == Init("uniform", 0.0, 0.2)
    assert layer_norm("norm", 4) == {
        "norm.weight": Param((4,), ONES, "norm"),
        "norm.bias": Param((4,), ZEROS, "norm"),
    }
    assert layer_norm("norm", 4, normal(0.02, mean=1.0))["norm.weight"].init == Init("normal", 1.0, 0.02)
    assert list(within("blocks.0", layer_norm("norm", 4))) == ["blocks.0.norm.weight", "blocks.0.norm.bias"]


def test_keras_names_follow_from_ours_by_rule():
    table = linear("a.out", 3, 5, ZEROS) | layer_norm("a.norm", 4) | {"bins.0.weight": Param((7, 2), ZEROS)}
    names = [keras_name(name, param) for name, param in table.items()]
    assert names == ["a/out/kernel", "a/out/bias", "a/norm/gamma", "a/norm/beta", "bins/0/weight"]
    assert [is_turned(name, param) for name, param in table.items()] == [True, False, False, False, False]


def test_bins_follow_the_cutoffs():
    assert bins(100, 64, [10, 40], 4) == [(0, 10, 64), (10, 40, 16), (40, 100, 4)]
    assert bins(100, 64, [], 4) == [(0, 100, 64)]
    assert bins(100, 64, [10], 1) == [(0, 10, 64), (10, 100, 64)]


def test_bins_of_one_width_share_a_table():
    assert tables(100, 64, [10, 40], 4) == [(10, 64), (30, 16), (60, 4)]
    assert tables(100, 64, [10, 40], 1) == [(100, 64)]
    assert tables(100, 64, [], 4) == [(100, 64)]


def test_near_names_are_suggested_and_far_ones_not():
    assert did_you_mean("n_haed", ["n_head", "n_layer"]) == "; did you mean 'n_head'?"
    assert did_you_mean("qqq", ["n_head"]) == ""


# ------------------------------------------------------------------------------------------------------ weight maps

QKV = WeightMap(
    stacked("layers.{i}.{part}.weight", "query key value", "body.h.{i}.qkv.weight"),
    same("layers.{i}.out.weight", "body.h.{i}.o.weight", "A B -> B A"),
    same("scale", "body.scale"),
    prefix="body.",
    ignored={r"body\.h\.\d+\.mask": "a buffer", r"step": "a count"},
)
TABLE = {
    f"layers.{number}.{part}.weight": Param((rows, 4), ZEROS)
    for number in range(2)
    for part, rows in {"query": 6, "key": 2, "value": 3, "out": 5}.items()
} | {"scale": Param((3,), ONES)}


def test_a_map_translates_names_both_ways():
    assert QKV.theirs("layers.7.key.weight")[::2] == ("body.h.7.qkv.weight", 1)
    assert QKV.ours("body.h.7.qkv.weight") == tuple(f"layers.7.{part}.weight" for part in ("query", "key", "value"))
    assert QKV.ours("h.3.o.weight") == ("layers.3.out.weight",)
    assert QKV.ours("body.h.0.mask") == QKV.ours("h.0.mask") == QKV.ours("step") == ()
    assert QKV.full_name("h.3.o.weight") == QKV.full_name("body.h.3.o.weight") == "body.h.3.o.weight"


def test_a_map_says_which_names_it_does_not_know():
    assert QKV.knows("body.scale")
    assert QKV.knows("scale")
    assert QKV.knows("h.2.mask")
    assert not QKV.knows("body.h.x.qkv.weight")
    assert not QKV.knows("xbody.scale")
    with pytest.raises(WeightError, match=r"^WeightMap: 'lm_head' must be a known tensor, got no row for it$"):
        QKV.ours("lm_head")
    with pytest.raises(WeightError, match=r"^WeightMap: 'layers\.0\.gate' must have a row, got none$"):
        QKV.theirs("layers.0.gate")


def test_the_same_number_stands_for_both_holes_of_a_name():
    twice = WeightMap(same("a.{i}.b.{i}", "x.{i}.{i}"))
    assert twice.theirs("a.3.b.3")[0] == "x.3.3"
    assert not twice.knows("x.3.4")


def test_dots_in_a_map_are_dots():
    assert not WeightMap(same("a.b", "x.y")).knows("xzy")


def test_stacked_parts_lie_one_after_the_other():
    places = QKV.places(TABLE)
    found = [place for part in ("query", "key", "value") for place in places[f"layers.1.{part}.weight"]]
    spans = [(place.start, place.stop) for place in found]
    assert spans == [(0, 6), (6, 8), (8, 11)]
    assert QKV.shapes(TABLE) == {
        "body.h.0.qkv.weight": (11, 4),
        "body.h.0.o.weight": (4, 5),
        "body.h.1.qkv.weight": (11, 4),
        "body.h.1.o.weight": (4, 5),
        "body.scale": (3,),
    }


def test_a_parameter_without_axes_keeps_its_shape():
    assert WeightMap(same("scale", "s")).shapes({"scale": Param((), ONES)}) == {"s": ()}


@pytest.mark.parametrize(
    ("layout", "shape", "sizes", "expected"),
    [
        ("", (2, 3), {}, lambda x: x),
        ("A B -> B A", (2, 3), {}, lambda x: x.T),
        ("(N H) D -> D N H", (6, 4), {"N": 2}, lambda x: x.reshape(2, 3, 4).transpose(2, 0, 1)),
        ("(N H) D -> D N H", (6, 4), {"H": 3}, lambda x: x.reshape(2, 3, 4).transpose(2, 0, 1)),
        ("D N H -> (N H) D", (4, 2, 3), {"N": 2, "H": 3}, lambda x: x.transpose(1, 2, 0).reshape(6, 4)),
        ("(N H) D -> (H N) D", (6, 4), {"N": 2}, lambda x: x.reshape(2, 3, 4).transpose(1, 0, 2).reshape(6, 4)),
        ("L (N H) -> N L H", (2, 6), {"N": 3}, lambda x: x.reshape(2, 3, 2).transpose(1, 0, 2)),
    ],
)
def test_layouts_turn_arrays_both_ways(layout, shape, sizes, expected):
    array = np.arange(math.prod(shape), dtype="float32").reshape(shape)
    turned = to_theirs(array, layout, sizes)
    assert np.array_equal(turned, expected(array))
    assert np.array_equal(to_ours(turned, layout, sizes), array)


def test_a_map_with_layouts_says_the_foreign_shapes():
    heads = WeightMap(same("query.weight", "q", "(N H) D -> D N H"))
    table = {"query.weight": Param((6, 4), ZEROS)}
    assert heads.shapes(table, {"N": 2}) == {"q": (4, 2, 3)}


def test_a_whole_map_is_proven():
    QKV.prove(TABLE)
    assert sum(math.prod(shape) for shape in QKV.shapes(TABLE).values()) == count(TABLE)


def test_the_proof_fails_on_a_missing_row():
    without = WeightMap(*QKV.rows[1:])
    with pytest.raises(WeightError, match=r"'layers\.0\.query\.weight' must have a row, got none"):
        without.prove(TABLE)


def test_the_proof_fails_on_two_rows_for_one_tensor():
    overlapping = WeightMap(same("a", "x"), same("b", "x"))
    with pytest.raises(WeightError, match=r"'b' must come back from 'x', got \('a',\)"):
        overlapping.prove({"a": Param((2,), ZEROS), "b": Param((2,), ZEROS)})


def test_the_proof_fails_on_a_row_that_does_not_come_back():
    lost = WeightMap(same("a.{i}", "x.{i}"), same("b", "x.0"))
    with pytest.raises(WeightError, match=r"'b' must come back from 'x\.0', got \('a\.0',\)"):
        lost.prove({"b": Param((2,), ZEROS)})


def test_the_proof_fails_on_a_part_that_another_row_takes_away():
    torn = WeightMap(same("b", "y"), stacked("{part}", "a b", "x"))
    with pytest.raises(WeightError, match="'x' must be used up exactly once"):
        torn.prove({"a": Param((2,), ZEROS), "b": Param((2,), ZEROS)})


def test_the_proof_fails_on_a_part_named_twice():
    with pytest.raises(WeightError, match="'x' must be used up exactly once"):
        WeightMap(Row(("a", "a"), "x")).prove({"a": Param((2,), ZEROS)})


def test_the_proof_fails_on_a_part_that_the_table_lacks():
    with pytest.raises(WeightError, match="'x'"):
        WeightMap(stacked("{part}", "a b", "x")).prove({"a": Param((2,), ZEROS)})


def test_the_proof_fails_on_a_hole_in_one_column_only():
    with pytest.raises(WeightError, match="'x'"):
        WeightMap(same("a.{i}", "x")).prove({"a.0": Param((2,), ZEROS), "a.1": Param((2,), ZEROS)})


# ------------------------------------------------------------------------------------------------------ all families


@st.composite
def transfo_xl_configs(draw):
    """Draw a valid Transformer-XL: every shape of vocabulary, ties and biases."""
    size = draw(st.integers(2, 60))
    cutoffs = sorted(draw(st.sets(st.integers(1, size - 1), max_size=3)))
    div_val = draw(st.sampled_from([1, 2, 3]))
    flags = st.lists(st.booleans(), min_size=len(cutoffs) + 1, max_size=len(cutoffs) + 1)
    return TransfoXLConfig(
        vocab_size=size,
        cutoffs=cutoffs,
        div_val=div_val,
        d_embed=div_val ** len(cutoffs) * draw(st.integers(1, 3)) + draw(st.integers(0, 2)),
        d_model=2 * draw(st.integers(1, 5)),
        n_head=draw(st.integers(1, 3)),
        d_head=draw(st.integers(1, 4)),
        d_inner=draw(st.integers(1, 9)),
        n_layer=draw(st.integers(1, 12)),
        untie_r=draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
        tie_projs=draw(flags),
        num_labels=draw(st.integers(1, 4)),
        init=draw(st.sampled_from(["normal", "uniform"])),
    )


@st.composite
def xlnet_configs(draw):
    """Draw a valid XLNet: every shape, tied or not."""
    heads = draw(st.integers(1, 4))
    return XLNetConfig(
        vocab_size=draw(st.integers(1, 60)),
        d_model=2 * heads * draw(st.integers(1, 4)),
        n_head=heads,
        d_inner=draw(st.integers(1, 9)),
        n_layer=draw(st.integers(1, 12)),
        untie_r=draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
        summary_use_proj=draw(st.booleans()),
        num_labels=draw(st.integers(1, 4)),
        mem_len=draw(st.none() | st.integers(0, 9)),
    )


@st.composite
def xlm_configs(draw):
    """Draw a valid XLM: every shape, languages or none, clusters, heads taken out, encoders and decoders."""
    heads, layers, size = draw(st.integers(1, 4)), draw(st.integers(0, 12)), draw(st.integers(3, 60))
    cutoffs = sorted(draw(st.sets(st.integers(1, size - 1), min_size=1, max_size=3)))
    pruned = st.dictionaries(st.integers(0, layers - 1), st.sets(st.integers(1, heads - 1)), max_size=2)
    encoder = draw(st.booleans())
    return XLMConfig(
        vocab_size=size,
        emb_dim=8 * heads * draw(st.integers(1, 3)),
        n_heads=heads,
        n_layers=layers,
        n_langs=draw(st.integers(1, 4)),
        use_lang_emb=draw(st.booleans()),
        causal=not encoder or draw(st.booleans()),
        is_encoder=encoder,
        asm=draw(st.booleans()),
        asm_cutoffs=cutoffs,
        asm_div_value=2.0,
        sinusoidal_embeddings=draw(st.booleans()),
        max_position_embeddings=draw(st.integers(1, 9)),
        tie_word_embeddings=draw(st.booleans()),
        summary_use_proj=draw(st.booleans()),
        num_labels=draw(st.integers(1, 4)),
        pruned_heads={layer: list(out) for layer, out in draw(pruned).items()} if heads > 1 and layers else {},
        init=draw(st.sampled_from(["normal", "authors"])),
    )


@st.composite
def xlm_roberta_xl_configs(draw):
    """Draw a valid XLM-RoBERTa-XL: every shape, positions or distances, heads taken out, encoders and decoders."""
    heads, layers, pad = draw(st.integers(1, 4)), draw(st.integers(0, 12)), draw(st.integers(0, 5))
    pruned = st.dictionaries(st.integers(0, layers - 1), st.sets(st.integers(1, heads - 1)), max_size=2)
    decoder = draw(st.booleans())
    return XLMRobertaXLConfig(
        vocab_size=pad + draw(st.integers(1, 60)),
        hidden_size=heads * draw(st.integers(1, 6)),
        num_attention_heads=heads,
        num_hidden_layers=layers,
        intermediate_size=draw(st.integers(1, 20)),
        max_position_embeddings=pad + draw(st.integers(1, 9)),
        type_vocab_size=draw(st.integers(1, 3)),
        pad_token_id=pad,
        position_embedding_type=draw(st.sampled_from(["absolute", "relative_key", "relative_key_query"])),
        is_decoder=decoder,
        add_cross_attention=decoder and draw(st.booleans()),
        add_pooling_layer=draw(st.booleans()),
        tie_word_embeddings=draw(st.booleans()),
        num_labels=draw(st.integers(1, 4)),
        pruned_heads={layer: list(out) for layer, out in draw(pruned).items()} if heads > 1 and layers else {},
    )


CONFIGS = {
    "transfo-xl": transfo_xl_configs(),
    "xlnet": xlnet_configs(),
    "xlm": xlm_configs(),
    "xlm-roberta-xl": xlm_roberta_xl_configs(),
}


def test_every_family_is_tested_here():
    assert CONFIGS.keys() == FAMILIES.keys() == HF.keys()


@pytest.mark.parametrize("model_type", CONFIGS)
@settings(max_examples=50, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_parameter_of_every_model_has_one_place_on_disk(model_type, data):
    config = data.draw(CONFIGS[model_type])
    family, weights = FAMILIES[model_type], HF[model_type]
    for head in family.heads:
        params = family.params(config, head)
        weights.prove(params)
        shapes = weights.shapes(params, config.sizes)
        assert sum(math.prod(shape) for shape in shapes.values()) == count(params)
        body_only = {name for name in shapes if not name.startswith(weights.prefix)}
        added = {weights.theirs(name)[0] for name in head.params(config)}
        assert body_only == {name for name in added if not name.startswith(weights.prefix)}
        for foreign in shapes:
            assert weights.full_name(foreign.removeprefix(weights.prefix)) == foreign


@pytest.mark.parametrize("model_type", CONFIGS)
@settings(max_examples=50, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_tie_has_one_tensor_and_two_names(model_type, data):
    config = data.draw(CONFIGS[model_type])
    family, weights = FAMILIES[model_type], HF[model_type]
    for head in family.heads:
        params = family.params(config, head)
        for alias, first in family.ties_within(config, head).items():
            assert alias not in params
            assert first in params
            assert weights.theirs(alias)[0] != weights.theirs(first)[0]
        assert set(family.ties_within(config, head)) <= set(family.ties(config))


@pytest.mark.parametrize("model_type", CONFIGS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_valid_config_survives_json(model_type, data):
    config = data.draw(CONFIGS[model_type])
    again = config_from_dict(json.loads(config.to_json_string()), "here")
    assert again == config
    family, base = FAMILIES[model_type], family_of(again).heads[0]
    assert family_of(again).params(again, base).keys() == family.params(config, base).keys()


def test_a_head_is_found_by_the_name_of_its_class_or_of_a_base():
    for family, head in MODELS:
        assert find_head(type(head.name, (), {})) == (family, head)
        assert find_head(type("TF" + head.name, (), {})) == (family, head)
        assert find_head(type("Mine", (type(head.name, (), {}),), {})) == (family, head)
    with pytest.raises(ConfigError, match=r"^FAMILIES: TransfoXLModle must be or extend a known .*'TransfoXLModel'\?$"):
        find_head(type("TransfoXLModle", (), {}))


def test_a_config_of_no_family_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"^here: model_type must be one of 'transfo-xl'.*, got 'bert'$"):
        config_from_dict({"model_type": "bert"}, "here")
    with pytest.raises(ConfigError, match=r"^here: model_type must be one of .*, got None$"):
        config_from_dict({"n_head": 2}, "here")
    with pytest.raises(ConfigError, match=r"^here: model_type must be one of"):
        config_from_dict({"model_type": ["bert"]}, "here")


# ------------------------------------------------------------------------------------------------- Transformer-XL


def parameters_of(name_of_head: str, **keys) -> int:
    config = TransfoXLConfig(**keys)
    return count(FAMILIES["transfo-xl"].params(config, HEADS[name_of_head]))


@pytest.mark.parametrize(
    ("name", "body", "language_model"),
    [
        ("transfo-xl-wt103", 283_885_936, 285_205_322),
        ("tf_wt103", 283_885_936, 285_205_322),
        ("tf_enwik8", None, 277_231_820),
        ("tf_text8", None, 277_050_395),
        ("tf_lm1b", None, 841_354_862),
    ],
)
def test_released_models_have_their_known_number_of_parameters(name, body, language_model):
    assert parameters_of("TransfoXLLMHeadModel", **RELEASED[name]) == language_model
    if body is not None:
        assert parameters_of("TransfoXLModel", **RELEASED[name]) == body


def test_every_released_model_is_counted_here():
    assert set(RELEASED) == {"transfo-xl-wt103", "tf_wt103", "tf_enwik8", "tf_text8", "tf_lm1b"}
    assert FAMILIES["transfo-xl"].released is RELEASED


def test_the_recipes_have_their_known_number_of_parameters():
    wt103 = {"d_model": 410, "d_embed": 410, "n_head": 10, "d_head": 41, "d_inner": 2100, "n_layer": 16, "div_val": 1}
    assert parameters_of("TransfoXLLMHeadModel", untie_r=False, **wt103) == 151_107_538
    assert parameters_of("TransfoXLLMHeadModel", untie_r=True, **wt103) == 151_119_838
    small = {"d_model": 512, "d_embed": 512, "n_head": 8, "d_inner": 2048, "n_layer": 12, "vocab_size": 204}
    assert parameters_of("TransfoXLLMHeadModel", untie_r=False, cutoffs=[], div_val=1, **small) == 41_055_436


def golden_cases() -> list[Path]:
    return sorted(GOLDEN.glob("transfo_xl-*.safetensors"))


def test_there_are_golden_cases():
    assert len(golden_cases()) >= 18


@pytest.mark.parametrize("file", golden_cases(), ids=lambda file: file.stem)
def test_names_and_shapes_are_those_of_the_reference(file):
    with safe_open(file, "numpy") as opened:
        case = json.loads(opened.metadata()["case"])
        theirs = {
            name.removeprefix("weights/"): tuple(opened.get_slice(name).get_shape())
            for name in opened.keys()  # noqa: SIM118  # no mapping
            if name.startswith("weights/")
        }
    config, head, family = TransfoXLConfig(**case["config"]), HEADS[case["head"]], FAMILIES["transfo-xl"]
    weights = HF["transfo-xl"]
    params = family.params(config, head)
    table = params | {alias: params[first] for alias, first in family.ties_within(config, head).items()}
    assert all(weights.knows(name) for name in theirs)
    real = {weights.full_name(name): shape for name, shape in theirs.items() if weights.ours(name)}
    assert weights.shapes(table) == real
    assert {name for name in theirs if not weights.ours(name)} <= {"pos_emb.inv_freq", "transformer.pos_emb.inv_freq"}


def test_tables_and_projections_are_tied_as_the_config_says():
    base = {"vocab_size": 50, "cutoffs": [10, 30], "d_embed": 16, "d_model": 16, "n_layer": 1}
    assert ties(TransfoXLConfig(div_val=2, **base)) == {
        "crit.bins.0.weight": "embedding.bins.0.weight",
        "crit.bins.1.weight": "embedding.bins.1.weight",
        "crit.bins.2.weight": "embedding.bins.2.weight",
        "crit.bins.1.projection": "embedding.bins.1.projection",
        "crit.bins.2.projection": "embedding.bins.2.projection",
    }
    assert ties(TransfoXLConfig(div_val=1, **base)) == {"crit.bins.0.weight": "embedding.bins.0.weight"}
    assert ties(TransfoXLConfig(div_val=1, **base | {"d_embed": 8, "tie_projs": [True, False, True]})) == {
        "crit.bins.0.weight": "embedding.bins.0.weight",
        "crit.bins.0.projection": "embedding.bins.0.projection",
        "crit.bins.2.projection": "embedding.bins.0.projection",
    }
    nothing = TransfoXLConfig(div_val=2, tie_word_embeddings=False, tie_projs=None, **base)
    assert ties(nothing) == {}


def test_shared_biases_are_tied_to_those_of_the_model():
    shared = TransfoXLConfig(vocab_size=50, cutoffs=[], n_layer=2, untie_r=False)
    assert {alias: first for alias, first in ties(shared).items() if "attention" in alias} == {
        f"blocks.{number}.attention.{bias}": bias for number in (0, 1) for bias in ("content_bias", "position_bias")
    }


@pytest.mark.parametrize("layer", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("difference", [7, -3, 0])
def test_any_bin_can_grow_and_shrink(layer, difference):
    config = TransfoXLConfig(vocab_size=50, cutoffs=[10, 30], d_embed=16, d_model=8, div_val=2, pad_token_id=3)
    other = resized(config, 50 + difference, layer)
    sizes = [10, 20, 20]
    sizes[layer] += difference
    assert [size for size, _ in tables(other.vocab_size, other.d_embed, other.cutoffs, other.div_val)] == sizes
    assert other == config.copy(vocab_size=sum(sizes), cutoffs=[sizes[0], sizes[0] + sizes[1]])
    assert (config.vocab_size, config.cutoffs) == (50, [10, 30])


@pytest.mark.parametrize("layer", [0, -1])
def test_with_one_table_the_last_bin_takes_the_difference(layer):
    config = TransfoXLConfig(vocab_size=50, cutoffs=[10, 30], div_val=1)
    assert (resized(config, 60, layer).vocab_size, resized(config, 60, layer).cutoffs) == (60, [10, 30])
    with pytest.raises(ConfigError, match="bin 2 must keep an id, got 0 of 20"):
        resized(config, 30, layer)


def test_a_resize_that_makes_no_sense_is_refused():
    config = TransfoXLConfig(vocab_size=50, cutoffs=[10, 30], d_embed=16, div_val=2)
    for layer in (3, -4):
        with pytest.raises(ConfigError, match=rf"^resize_token_embeddings: layer must lie in \[-3, 3\), got {layer}$"):
            resized(config, 60, layer)
    with pytest.raises(ConfigError, match=r"^resize_token_embeddings: bin 0 must keep an id, got 0 of 10$"):
        resized(config, 40, 0)
    with pytest.raises(ConfigError, match=r"layer must lie in \[-1, 1\), got 1"):
        resized(TransfoXLConfig(vocab_size=50, cutoffs=[10], div_val=1), 60, 1)


def test_initial_values_follow_the_config():
    config = TransfoXLConfig(
        vocab_size=50, cutoffs=[10], d_embed=16, init_std=0.3, proj_init_std=0.4, init_range=0.5, n_layer=1
    )
    table = FAMILIES["transfo-xl"].params(config, HEADS["TransfoXLLMHeadModel"])
    starts = {
        "embedding.bins.0.weight": normal(0.3),
        "embedding.bins.1.projection": normal(0.4),
        "crit.bins.0.projection": normal(0.4),
        "blocks.0.attention_norm.weight": normal(0.3, mean=1.0),
        "blocks.0.attention_norm.bias": ZEROS,
        "blocks.0.attention.content_bias": normal(0.3),
        "blocks.0.feed_forward.inner.bias": ZEROS,
        "crit.cluster.weight": normal(0.3),
        "crit.cluster.bias": ZEROS,
        "crit.bins.1.bias": ZEROS,
    }
    assert {name: table[name].init for name in starts} == starts
    uniform_table = FAMILIES["transfo-xl"].body(config.copy(init="uniform"))
    assert uniform_table["blocks.0.attention.query.weight"].init == uniform(0.5)
    assert uniform_table["embedding.bins.0.projection"].init == normal(0.4)
