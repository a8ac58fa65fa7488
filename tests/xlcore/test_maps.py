"""Weight maps and origins, whatever the family: what rows can say, that every map covers every model, and names."""

import math
from itertools import product

import numpy as np
import pytest

from xlcore import FAMILIES, ConfigError, WeightError
from xlcore.families import find_head_by_name
from xlcore.layouts import to_ours, to_theirs
from xlcore.maps import ORIGINS
from xlcore.maps.spelling import REPLACED, keras_paths, snake, unwrapped, with_averages, without_model
from xlcore.origin import Seen, as_they_are, bare_body, canonical_shapes, numbered, require, settle
from xlcore.params import ZEROS, Param
from xlcore.weightmap import Row, WeightMap, copied, cut, layered, or_else, same, stacked

BIASES = {f"blocks.{layer}.bias": Param((2, 3), ZEROS) for layer in range(3)}
LM = find_head_by_name("TransfoXLLMHeadModel")


def numbers(*shape: int) -> np.ndarray:
    return np.arange(math.prod(shape), dtype="float32").reshape(shape)


# -------------------------------------------------------------------------------------------------------------- rows


def test_layers_lie_in_one_tensor_in_their_order():
    weights = WeightMap(layered("blocks.{i}.bias", "biases"), same("blocks.{i}.scale", "scale_{i}"))
    many = {f"blocks.{layer}.bias": Param((2, 3), ZEROS) for layer in reversed(range(12))}
    recipe = weights.recipes(many)["biases"]
    assert recipe.shape == (12, 2, 3)
    assert recipe.parts == tuple(f"blocks.{layer}.bias" for layer in range(12))
    assert np.array_equal(recipe.lay(numbers(24, 3)), numbers(12, 2, 3))
    (place,) = weights.places(many)["blocks.10.bias"]
    assert (place.name, place.start, place.stop, place.rows) == ("biases", 10, 11, 12)
    assert weights.ours("biases") == ("blocks.{i}.bias",)
    weights.prove(many)


def test_a_layer_that_is_missing_in_a_stack_is_seen_by_the_proof():
    gone = {name: param for name, param in BIASES.items() if "1" not in name}
    with pytest.raises(WeightError, match=r"'biases' must be used up exactly once, got rows \[\(0, 1\), \(2, 3\)\]"):
        WeightMap(layered("blocks.{i}.bias", "biases")).prove(gone)


def test_one_tensor_for_all_layers_must_fit_them_all():
    weights = WeightMap(copied("blocks.{i}.bias", "bias"))
    weights.prove(BIASES)
    recipe = weights.recipes(BIASES)["bias"]
    assert recipe.shape == (2, 3)
    one = numbers(2, 3)
    assert np.array_equal(recipe.lay(np.concatenate([one] * 3)), one)
    expected = r"^WeightMap: 'blocks\.2\.bias' must equal 'blocks\.0\.bias', for 'bias' stands for both, got another$"
    with pytest.raises(WeightError, match=expected):
        recipe.lay(np.concatenate([one, one, one + 1]))


def test_a_tensor_cut_into_several_has_several_places():
    weights = WeightMap(cut("bias", "b_0", 0, 4), cut("bias", "b_1", 4, 10))
    table = {"bias": Param((10,), ZEROS)}
    weights.prove(table)
    assert weights.shapes(table) == {"b_0": (4,), "b_1": (6,)}
    assert np.array_equal(weights.recipes(table)["b_1"].lay(numbers(10)), numbers(10)[4:])
    assert [(place.name, place.first, place.rows) for place in weights.places(table)["bias"]] == [
        ("b_0", 0, 4),
        ("b_1", 4, 6),
    ]


@pytest.mark.parametrize("second", [(4, 9), (5, 10), (3, 10)])
def test_a_cut_that_loses_rows_is_seen_by_the_proof(second):
    weights = WeightMap(cut("bias", "b_0", 0, 4), cut("bias", "b_1", *second))
    with pytest.raises(WeightError, match=r"'bias' must lie there exactly once, got rows \[\(0, 4\), .* of 10$"):
        weights.prove({"bias": Param((10,), ZEROS)})


def test_a_row_may_say_what_absence_stands_for():
    row = or_else("identity", same("projection", "proj", "A B -> B A"))
    assert row == Row(("projection",), "proj", "A B -> B A", absent="identity")


def test_the_first_row_counts_whether_it_has_a_number_or_not():
    ours_first = WeightMap(same("bins.0.weight", "table"), same("bins.{i}.weight", "table_{i}"))
    assert ours_first.theirs("bins.0.weight")[0] == "table"
    assert ours_first.theirs("bins.1.weight")[0] == "table_1"
    pattern_first = WeightMap(same("bins.{i}.weight", "table_{i}"), same("bins.0.weight", "table"))
    assert pattern_first.theirs("bins.0.weight")[0] == "table_0"
    assert pattern_first.ours("table") == ("bins.0.weight",)


def test_a_map_can_be_had_with_other_rows():
    first = WeightMap(same("a", "x"), stacked("{part}", "b c", "y"), prefix="p.", ignored={"step": "a count"})
    other = first.but(same("b", "z"), ignored={"time": "a clock"})
    assert [row.theirs for row in other.rows] == ["x", "z"]
    assert (other.prefix, other.why_ignored("step"), other.why_ignored("time")) == ("p.", "a count", "a clock")
    assert other.why_ignored("x") is None
    assert first.why_ignored("time") is None


def test_a_map_tells_the_layout_of_a_tensor():
    weights = WeightMap(same("a", "x", "A B -> B A"), ignored={"step": "a count"})
    assert (weights.layout("x"), weights.layout("step")) == ("A B -> B A", "")


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("A B -> -A B", lambda x: x[::-1]),
        ("A B -> A -B", lambda x: x[:, ::-1]),
        ("A B -> -B A", lambda x: x.T[::-1]),
        ("A B -> B -A", lambda x: x[::-1].T),
    ],
)
def test_a_minus_reverses_an_axis_both_ways(layout, expected):
    array = numbers(2, 3)
    turned = to_theirs(array, layout)
    assert np.array_equal(turned, expected(array))
    assert np.array_equal(to_ours(turned, layout), array)
    assert np.shares_memory(turned, array)


def test_a_minus_reverses_an_axis_of_a_tensor_of_torch():
    torch = pytest.importorskip("torch")
    turned = to_theirs(torch.arange(6.0).reshape(2, 3), "A B -> -A B")
    assert turned.tolist() == [[3, 4, 5], [0, 1, 2]]


# ------------------------------------------------------------------------------------------------- all maps, all models


def models():
    """Yield every origin with every config and head of its family that it can hold."""
    for origin in ORIGINS:
        family = FAMILIES[origin.model_type]
        examples = product(family.examples.items(), family.heads)
        released = product(family.released.items(), family.heads[1:2])  # large; what their heads add is in the examples
        for (name, each), head in (*examples, *released):
            config = family.config(**each)
            try:
                origin.check(config, head)
            except ConfigError:
                continue
            yield pytest.param(origin, config, head, id=f"{origin.model_type} {origin.name}, {name}, {head.name}")


MODELS = list(models())


def test_every_origin_holds_some_model():
    assert {(each.values[0].name, each.values[0].model_type) for each in MODELS} == {
        (origin.name, origin.model_type) for origin in ORIGINS
    }
    assert len({(origin.name, origin.model_type) for origin in ORIGINS}) == len(ORIGINS)


@pytest.mark.parametrize(("origin", "config", "head"), MODELS)
def test_every_map_covers_every_model_both_ways(origin, config, head):
    family, weights = FAMILIES[origin.model_type], origin.weights(config, head)
    params = family.params(config, head)
    weights.prove(params)
    recipes = weights.recipes(params, config.sizes)
    assert sum(math.prod(recipe.shape) for recipe in recipes.values()) == _counted(params, recipes)
    names = origin.written(recipes, config, head)
    assert len(set(names.values())) == len(recipes)
    back = origin.plain(names.values())
    for plain, written in names.items():
        assert weights.full_name(back[written]) == plain
    for name in origin.copies(config, head):
        assert name in family.ties(config)
    for alias in set(origin.copies(config, head)) & set(family.ties_within(config, head)):
        assert weights.theirs(alias)[0] not in recipes


def _counted(params, recipes) -> int:
    """Count the numbers of all parameters, of copies once."""
    once = {name for recipe in recipes.values() for name in recipe.parts[:1] if recipe.row.over == "copies"}
    copies = {name for recipe in recipes.values() for name in recipe.parts if recipe.row.over == "copies"}
    return sum(math.prod(param.shape) for name, param in params.items() if name not in copies - once)


# What no tensor tells, of some family or other.
UNTOLD = ("cutoffs", "pre_lnorm", "n_heads", "num_attention_heads", "position_embedding_type")


@pytest.mark.parametrize(("origin", "config", "head"), [each for each in MODELS if each.values[0].name != "keras"])
def test_the_sizes_of_a_model_follow_from_its_tensors(origin, config, head):
    """What is derived from the shapes of any model's files makes that model's parameters again."""
    family = FAMILIES[origin.model_type]
    weights = origin.weights(config, head)
    shapes = weights.shapes(family.params(config, head), config.sizes)
    plain = origin.plain(origin.written(shapes, config, head).values())
    names = {each: written for written, each in plain.items()}
    found = {each: shapes[weights.full_name(each)] for each in names}
    given = {key: getattr(config, key) for key in UNTOLD if key in config.fields}
    seen = Seen("here", found, names, {}, given if origin.name != "tf1" else {})
    if not origin.recognise(seen):
        assert origin.name == "torch-original", "the body alone is called as HuggingFace calls it"
        return
    assert [each.name for each in ORIGINS if each.recognise(seen)] == [origin.name]
    derived = origin.derive(seen)
    again = family.config(**derived.keys)
    assert family.body(again).keys() == family.body(config).keys()
    assert {name: param.shape for name, param in family.body(again).items()} == {
        name: param.shape for name, param in family.body(config).items()
    }
    if head.kind not in ("multiple_choice", "decoder_lm"):
        assert origin.head(seen, again) == head.name
    for key in derived.keys.keys() - given.keys():
        assert any(f"{key}=" in note for note in derived.notes), key


# ---------------------------------------------------------------------------------------------------------- deriving


def test_the_first_source_that_tells_a_key_counts():
    seen = Seen("here", {}, given={"given": 0})
    derived = settle(
        seen, {"e": 5, "a": 9}, ("shapes", {"a": 1, "given": 7}), ("one", {"b": 2}), ("other", {"b": 3, "c": 4, "a": 1})
    )
    assert derived.keys == {"given": 0, "a": 1, "b": 2, "c": 4}
    assert derived.notes == [
        "a=1: from shapes",
        "b=2: from one",
        "c=4: from other",
        "e=5: the defaults, for nothing tells them",
    ]


def test_a_file_that_contradicts_the_tensors_is_refused():
    expected = "^here: n_layer of flags must be 2, as the tensors have it, got 3$"
    with pytest.raises(ConfigError, match=expected):
        settle(Seen("here", {}), {}, ("shapes", {"n_layer": 2}), ("flags", {"n_layer": 3}))
    settle(Seen("here", {}, given={"n_layer": 4}), {}, ("shapes", {"n_layer": 2}), ("flags", {"n_layer": 3}))


def test_shapes_are_told_in_our_layout():
    weights = WeightMap(same("a.weight", "a/kernel", "A B -> B A"), layered("blocks.{i}.bias", "biases"))
    found = canonical_shapes(weights, {"a/kernel": (2, 3), "biases": (4, 5), "unknown": (1,)})
    assert found == {"a.weight": (3, 2), "blocks.{i}.bias": (4, 5)}


def test_numbers_are_read_out_of_names():
    names = ["bins.10.weight", "bins.2.weight", "bins.x.weight", "bins.3.bias", "crit.bins.4.weight"]
    assert numbered(names, "bins.", ".weight") == [2, 10]


def test_what_an_origin_cannot_hold_is_named():
    config = FAMILIES["transfo-xl"].config(vocab_size=9, cutoffs=[])
    require("there", config, untie_r=True)
    expected = "^there: pre_lnorm must be True there, got False; choose another format$"
    with pytest.raises(ConfigError, match=expected):
        require("there", config, pre_lnorm=True)


# ------------------------------------------------------------------------------------------------------------- names


def test_averages_take_the_name_of_what_they_average():
    names = ["a", "a/ExponentialMovingAverage", "b", "a/Adam", "c/ExponentialMovingAverage"]
    assert with_averages(names) == {
        "a": f"a{REPLACED}",
        "a/ExponentialMovingAverage": "a",
        "b": "b",
        "a/Adam": "a/Adam",
        "c/ExponentialMovingAverage": "c",
    }
    assert with_averages(["a", "b"]) == as_they_are(["a", "b"])


def test_wrappers_and_old_names_of_norms_come_off():
    names = ["module.a.weight", "_orig_mod.module.b", "c.module.d", "norm.gamma", "module.norm.beta", "beta"]
    assert list(unwrapped(names).values()) == ["a.weight", "b", "c.module.d", "norm.weight", "norm.bias", "beta"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("TFTransfoXLModel", "tf_transfo_xl_model"),
        ("TFTransfoXLLMHeadModel", "tf_transfo_xllm_head_model"),
        ("TFTransfoXLForSequenceClassification", "tf_transfo_xl_for_sequence_classification"),
        ("TFXLNetModel", "tfxl_net_model"),
        ("TFXLNetLMHeadModel", "tfxl_net_lm_head_model"),
        ("TFXLNetForQuestionAnsweringSimple", "tfxl_net_for_question_answering_simple"),
    ],
)
def test_classes_are_spelled_as_keras_2_spells_them(name, expected):
    assert snake(name) == expected


def test_paths_of_tensorflow_lose_group_and_model():
    names = [
        "crit/tf_x_1/crit/cluster_bias:0",
        "transformer/my_own_model/transformer/layers_._0/r:0",
        "crit/cluster_bias:0",
        "transformer/layers_._0/r",
    ]
    assert list(without_model(names, {"crit", "transformer"}).values()) == [
        ("crit", "crit/cluster_bias"),
        ("transformer", "transformer/layers_._0/r"),
        ("crit", "crit/cluster_bias"),
        ("transformer", "transformer/layers_._0/r"),
    ]
    paths = keras_paths(["crit/cluster_bias"], FAMILIES["transfo-xl"].config(), LM)
    assert paths == {"crit/cluster_bias": "crit/tf_transfo_xllm_head_model/crit/cluster_bias:0"}


def test_a_body_alone_leaves_out_where_a_model_keeps_it():
    config, body = FAMILIES["transfo-xl"].config(), find_head_by_name("TransfoXLModel")
    assert bare_body("t.")(["t.a"], config, body) == {"t.a": "a"}
    assert bare_body("t.")(["t.a"], config, LM) == {"t.a": "t.a"}
