"""Configurations: every rule, every alias, both ways through JSON."""

import copy
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xlcore import ConfigError, TransfoXLConfig, XLError
from xlcore.config import CARRIED

# The published config.json of transfo-xl-wt103, as transformers 4.34 has it.
PUBLISHED = {
    "adaptive": True,
    "architectures": ["TransfoXLLMHeadModel"],
    "attn_type": 0,
    "clamp_len": 1000,
    "cutoffs": [20000, 40000, 200000],
    "d_embed": 1024,
    "d_head": 64,
    "d_inner": 4096,
    "d_model": 1024,
    "div_val": 4,
    "dropatt": 0.0,
    "dropout": 0.1,
    "eos_token_id": 0,
    "ext_len": 0,
    "init": "normal",
    "init_range": 0.01,
    "init_std": 0.02,
    "layer_norm_epsilon": 1e-05,
    "mem_len": 1600,
    "model_type": "transfo-xl",
    "n_head": 16,
    "n_layer": 18,
    "pre_lnorm": False,
    "proj_init_std": 0.01,
    "same_length": True,
    "sample_softmax": -1,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 250}},
    "tgt_len": 128,
    "tie_projs": [False, True, True, True],
    "tie_weight": True,
    "torch_dtype": "float32",
    "transformers_version": "4.34.0",
    "untie_r": True,
    "vocab_size": 267735,
}
RISE = "rise strictly between 0 and vocab_size=100"
WHOLE, POSITIVE, NUMBER, SHARE = "be a whole number", "be positive", "be a number", "lie in [0, 1]"
SIZES = ("vocab_size", "d_model", "d_embed", "n_head", "d_head", "d_inner", "div_val", "n_layer")
SWITCHES = (
    "pre_lnorm", "same_length", "proj_share_all_but_first", "adaptive", "untie_r", "trainer_compatible",
    "tie_word_embeddings", "output_attentions", "output_hidden_states", "return_dict",
)  # fmt: skip
DEVIATIONS = ("init_range", "init_std", "proj_init_std", "layer_norm_epsilon")


def message_of(**keys) -> str:
    """Return the message with which a configuration is refused."""
    with pytest.raises(ConfigError) as refused:
        TransfoXLConfig(**keys)
    return str(refused.value)


# --------------------------------------------------------------------------------------------------- invalid values


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(
    ("value", "condition"),
    [(0, POSITIVE), (-3, POSITIVE), (1.5, WHOLE), (True, WHOLE), ("8", WHOLE), (None, WHOLE), ([4], WHOLE)],
)
def test_sizes_are_positive_whole_numbers(name, value, condition):
    assert message_of(**{name: value}) == f"TransfoXLConfig: {name} must {condition}, got {value!r}"


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("value", [2, -1, "true", None, []])
def test_switches_are_true_or_false(name, value):
    assert message_of(**{name: value}) == f"TransfoXLConfig: {name} must be true or false, got {value!r}"


@pytest.mark.parametrize("name", SWITCHES)
def test_switches_take_zero_and_one_of_old_files(name):
    assert getattr(TransfoXLConfig(**{name: 0}), name) is False
    assert getattr(TransfoXLConfig(**{name: 1}), name) is True


@pytest.mark.parametrize("name", ["dropout", "dropatt"])
@pytest.mark.parametrize(
    ("value", "condition"),
    [(1.01, SHARE), (-0.1, SHARE), (math.nan, "be finite"), (math.inf, "be finite"), ("0.1", NUMBER), (None, NUMBER)],
)
def test_dropped_shares_lie_between_zero_and_one(name, value, condition):
    assert message_of(**{name: value}) == f"TransfoXLConfig: {name} must {condition}, got {value!r}"


@pytest.mark.parametrize("name", DEVIATIONS)
@pytest.mark.parametrize(
    ("value", "condition"), [(-1e-9, "lie in [0, inf]"), (math.nan, "be finite"), (True, NUMBER), ("x", NUMBER)]
)
def test_deviations_are_finite_and_not_negative(name, value, condition):
    assert message_of(**{name: value}) == f"TransfoXLConfig: {name} must {condition}, got {value!r}"


@pytest.mark.parametrize("name", ["dropout", "init_std"])
def test_whole_numbers_beyond_every_float_are_refused(name):
    with pytest.raises(ConfigError, match=f"TransfoXLConfig: {name} must "):
        TransfoXLConfig(**{name: 10**400})


@pytest.mark.parametrize(
    ("keys", "field", "condition", "value"),
    [
        ({"vocab_size": 100, "cutoffs": [20, 10]}, "cutoffs", RISE, [20, 10]),
        ({"vocab_size": 100, "cutoffs": [20, 20]}, "cutoffs", RISE, [20, 20]),
        ({"vocab_size": 100, "cutoffs": [0, 20]}, "cutoffs", RISE, [0, 20]),
        ({"vocab_size": 100, "cutoffs": [-5, 20]}, "cutoffs", RISE, [-5, 20]),
        ({"vocab_size": 100, "cutoffs": [20, 100]}, "cutoffs", RISE, [20, 100]),
        ({"vocab_size": 100, "cutoffs": [20, 101]}, "cutoffs", RISE, [20, 101]),
        ({"cutoffs": 5}, "cutoffs", "be a list", 5),
        ({"cutoffs": "123"}, "cutoffs", "be a list", "123"),
        ({"cutoffs": {1: 2}}, "cutoffs", "be a list", {1: 2}),
        ({"cutoffs": [1.5]}, "cutoffs[0]", WHOLE, 1.5),
        ({"cutoffs": [1, [2]]}, "cutoffs[1]", WHOLE, [2]),
        ({"d_model": 7}, "d_model", "be even (half sines, half cosines)", 7),
        ({"d_embed": 63}, "d_embed", "leave a column for the last bin (div_val**3 = 64)", 63),
        ({"tie_projs": [True] * 5}, "tie_projs", "have 4 entries, one a bin", [True] * 5),
        ({"tie_projs": ["yes"]}, "tie_projs[0]", "be true or false", "yes"),
        ({"attn_type": 1}, "attn_type", "be one of 0", 1),
        ({"sample_softmax": 5}, "sample_softmax", "be at most 0, the sampled softmax is not supported", 5),
        ({"sample_softmax": "no"}, "sample_softmax", WHOLE, "no"),
        ({"init": "xavier"}, "init", "be one of 'normal', 'uniform'", "xavier"),
        ({"window_rule": "paper"}, "window_rule", "be one of 'hf', 'tf1'", "paper"),
        ({"initial_memory": "random"}, "initial_memory", "be one of 'zeros', 'empty'", "random"),
        ({"mem_len": 1.5}, "mem_len", WHOLE, 1.5),
        ({"clamp_len": None}, "clamp_len", WHOLE, None),
        ({"eos_token_id": "0"}, "eos_token_id", WHOLE, "0"),
        ({"pad_token_id": 1.0}, "pad_token_id", WHOLE, 1.0),
        ({"bos_token_id": [1]}, "bos_token_id", WHOLE, [1]),
        ({"architectures": [1]}, "architectures[0]", "be a string", 1),
        ({"architectures": "TransfoXLModel"}, "architectures", "be a list", "TransfoXLModel"),
        ({"num_labels": 0}, "num_labels", POSITIVE, 0),
        ({"num_labels": "2"}, "num_labels", WHOLE, "2"),
        ({"id2label": {"a": "b"}}, "id2label", "map label numbers to names", {"a": "b"}),
        ({"id2label": ["a"]}, "id2label", "map label numbers to names", ["a"]),
        ({"id2label": {"²": "b"}}, "id2label", "map label numbers to names", {"²": "b"}),
        ({"label2id": ["a"]}, "label2id", "map label names to numbers", ["a"]),
        ({"label2id": {"a": "b"}}, "label2id['a']", WHOLE, "b"),
        ({"id2label": {"1": "a", 1: "b"}}, "id2label", "name each label once", {"1": "a", 1: "b"}),
        ({"temperature": math.nan}, "temperature", "be what JSON can hold", math.nan),
        ({"torch_dtype": int}, "torch_dtype", "be what JSON can hold", int),
    ],
)
def test_invalid_values_are_refused_by_name(keys, field, condition, value):
    assert message_of(**keys) == f"TransfoXLConfig: {field} must {condition}, got {value!r}"


def test_an_unknown_problem_type_is_refused_with_the_known_ones():
    known = "'regression', 'single_label_classification', 'multi_label_classification'"
    expected = f"TransfoXLConfig: problem_type must be one of {known}, got 'ranking'"
    assert message_of(problem_type="ranking") == expected
    assert TransfoXLConfig(problem_type="regression").problem_type == "regression"


def test_div_val_zero_is_refused_before_anything_divides_by_it():
    assert message_of(div_val=0) == "TransfoXLConfig: div_val must be positive, got 0"


def test_values_at_the_edge_of_their_rule_are_taken():
    config = TransfoXLConfig(
        vocab_size=4, cutoffs=[1, 2, 3], d_model=2, d_embed=8, div_val=2, mem_len=0, clamp_len=-1, dropout=1,
        dropatt=0, sample_softmax=0, init_std=0, eos_token_id=None,
    )  # fmt: skip
    assert (config.cutoffs, config.d_embed, config.dropout, config.eos_token_id) == ([1, 2, 3], 8, 1.0, None)
    assert isinstance(config.dropout, float)
    assert config.same_length, "with no memory the causal mask holds, so this is no contradiction"


def test_no_cutoffs_may_be_none_or_an_empty_list():
    assert TransfoXLConfig(cutoffs=None).cutoffs == []
    assert TransfoXLConfig(cutoffs=()).cutoffs == []


def test_numpy_numbers_become_plain_ones():
    config = TransfoXLConfig(n_layer=np.int64(2), dropout=np.float32(0.5), cutoffs=np.array([10, 20, 30]))
    assert (type(config.n_layer), type(config.dropout), type(config.cutoffs[0])) == (int, float, int)
    assert json.loads(config.to_json_string())["cutoffs"] == [10, 20, 30]


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(TransfoXLConfig.fields)), ODD)
@example("dropout", 10**400)
@example("id2label", {"²": "x"})
def test_whatever_json_holds_is_taken_or_refused_as_a_config_error(name, value):
    try:
        config = TransfoXLConfig.from_dict({name: value})
    except ConfigError as error:
        told = str(error)
        assert told.startswith("TransfoXLConfig: ")
        return
    assert TransfoXLConfig.from_dict(json.loads(config.to_json_string())) == config


# --------------------------------------------------------------------------------------------- unknown and other keys


def test_an_unknown_key_names_the_nearest_known_one():
    assert message_of(n_haed=3) == "TransfoXLConfig: unknown key 'n_haed'; did you mean 'n_head'?"
    assert message_of(hiden_size=4) == "TransfoXLConfig: unknown key 'hiden_size'; did you mean 'hidden_size'?"
    assert message_of(num_label=4) == "TransfoXLConfig: unknown key 'num_label'; did you mean 'num_labels'?"
    assert message_of(zzzzzz=1) == "TransfoXLConfig: unknown key 'zzzzzz'"


def test_reading_an_unknown_key_is_an_attribute_error_with_a_hint():
    with pytest.raises(AttributeError, match=r"^TransfoXLConfig has no key 'n_layr'; did you mean 'n_layer'\?$"):
        _ = TransfoXLConfig().n_layr
    assert not hasattr(TransfoXLConfig(), "rotary_base")


def test_all_errors_of_a_config_are_value_errors_too():
    assert issubclass(ConfigError, XLError)
    assert issubclass(XLError, ValueError)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("n_token", "vocab_size"),
        ("hidden_size", "d_model"),
        ("num_attention_heads", "n_head"),
        ("num_heads", "n_head"),
        ("num_hidden_layers", "n_layer"),
        ("num_layers", "n_layer"),
        ("head_dim", "d_head"),
        ("feed_forward_size", "d_inner"),
    ],
)
def test_an_alias_reads_writes_and_constructs(alias, name):
    config = TransfoXLConfig(cutoffs=[2], **{alias: 46})
    assert getattr(config, name) == getattr(config, alias) == 46
    setattr(config, alias, 84)
    assert getattr(config, name) == getattr(config, alias) == 84
    assert config.to_dict()[name] == 84
    assert alias not in config.to_dict()
    assert message_of(**{alias: 0}) == f"TransfoXLConfig: {name} must be positive, got 0"


def test_one_key_under_two_names_must_have_one_value():
    assert TransfoXLConfig(d_model=8, hidden_size=8).d_model == 8
    expected = "TransfoXLConfig: hidden_size must equal d_model (one key, two names), got 10"
    assert message_of(d_model=8, hidden_size=10) == expected


def test_one_key_under_two_names_is_refused_in_either_order():
    message = message_of(hidden_size=10, d_model=8)
    assert "hidden_size" in message
    assert "d_model" in message


@pytest.mark.parametrize("key", sorted(CARRIED | TransfoXLConfig.without_effect))
def test_carried_keys_are_kept_and_written_back(key):
    config = TransfoXLConfig(**{key: "as it was"})
    assert getattr(config, key) == "as it was"
    assert json.loads(config.to_json_string())[key] == "as it was"
    setattr(config, key, "changed")
    assert config.to_dict()[key] == "changed"


def test_a_key_cannot_be_both_carried_and_a_rule_of_the_family():
    assert not (CARRIED | TransfoXLConfig.without_effect) & (TransfoXLConfig.fields.keys() | TransfoXLConfig.aliases)


def test_the_model_type_must_be_the_familys():
    assert TransfoXLConfig(model_type="transfo-xl").to_dict()["model_type"] == "transfo-xl"
    assert message_of(model_type="xlnet") == "TransfoXLConfig: model_type must be 'transfo-xl', got 'xlnet'"
    config = TransfoXLConfig()
    with pytest.raises(ConfigError, match="model_type must be 'transfo-xl', got 'xlm'"):
        config.model_type = "xlm"
    assert config.model_type == "transfo-xl"


# --------------------------------------------------------------------------------------------- assignment and update


@pytest.mark.parametrize(
    ("name", "value"),
    [("n_head", 0), ("d_model", 9), ("cutoffs", [5, 4]), ("div_val", 40), ("num_labels", -1), ("n_layr", 3)],
)
def test_a_failed_assignment_leaves_the_config_as_it_was(name, value):
    config = TransfoXLConfig(n_layer=2, torch_dtype="float32")
    before = config.to_dict()
    with pytest.raises(ConfigError):
        setattr(config, name, value)
    assert config.to_dict() == before


def test_a_failed_update_changes_none_of_its_keys():
    config = TransfoXLConfig()
    before = config.to_dict()
    with pytest.raises(ConfigError, match="n_head must be positive"):
        config.update(n_layer=3, prefix="x", num_labels=7, n_head=0)
    assert config.to_dict() == before


def test_an_update_changes_keys_that_depend_on_each_other():
    config = TransfoXLConfig()
    with pytest.raises(ConfigError, match="cutoffs must rise strictly between 0 and vocab_size=50"):
        config.vocab_size = 50
    config.update(vocab_size=50, cutoffs=[10, 20], d_embed=16)
    assert (config.vocab_size, config.cutoffs, config.d_embed) == (50, [10, 20], 16)
    assert config.tie_projs == [False, True, True]


def test_an_assigned_list_is_copied():
    given_list = [5, 10]
    config = TransfoXLConfig(vocab_size=50, cutoffs=given_list)
    given_list.append(3)
    assert config.cutoffs == [5, 10]


def test_mutable_defaults_are_not_shared():
    first, second = TransfoXLConfig(), TransfoXLConfig()
    for name in ("cutoffs", "tie_projs", "id2label", "label2id"):
        assert getattr(first, name) == getattr(second, name)
        assert getattr(first, name) is not getattr(second, name)
    first.to_dict()["cutoffs"].append(1)
    assert first.cutoffs == TransfoXLConfig().cutoffs
    named = TransfoXLConfig(id2label={0: "a", 1: "b"})
    named.to_dict()["id2label"][2] = "x"
    assert named.num_labels == 2


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("cutoffs", lambda value: value.append(3)),
        ("cutoffs", lambda value: value.extend([3])),
        ("cutoffs", lambda value: value.insert(0, 3)),
        ("cutoffs", lambda value: value.remove(5)),
        ("cutoffs", lambda value: value.pop()),
        ("cutoffs", lambda value: value.clear()),
        ("cutoffs", lambda value: value.sort()),
        ("cutoffs", lambda value: value.reverse()),
        ("cutoffs", lambda value: value.__setitem__(0, 3)),
        ("cutoffs", lambda value: value.__delitem__(0)),
        ("cutoffs", lambda value: value.__iadd__([3])),
        ("cutoffs", lambda value: value.__imul__(2)),
        ("id2label", lambda value: value.__setitem__(0, "x")),
        ("id2label", lambda value: value.__delitem__(0)),
        ("id2label", lambda value: value.update({3: "x"})),
        ("id2label", lambda value: value.setdefault(3, "x")),
        ("id2label", lambda value: value.pop(0)),
        ("id2label", lambda value: value.popitem()),
        ("id2label", lambda value: value.clear()),
        ("id2label", lambda value: value.__ior__({3: "x"})),
    ],
)
def test_what_a_config_hands_out_cannot_be_changed_behind_its_back(key, change):
    """The rules would not hear of it: `cutoffs` beyond the vocabulary, a label more than the model has rows."""
    config = TransfoXLConfig(vocab_size=50, cutoffs=[5, 10])
    before = config.to_dict()
    message = rf"TransfoXLConfig: {key} must be set as a whole, got \w+ in place; config\.{key} = \.\.\."
    for each in (config, config.copy(), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        with pytest.raises(ConfigError, match=message):
            change(getattr(each, key))
        assert each.to_dict() == before


# ------------------------------------------------------------------------------------------------------- tie_projs


def test_shared_projections_follow_from_the_cutoffs():
    assert TransfoXLConfig().tie_projs == [False, True, True, True]
    assert TransfoXLConfig(cutoffs=[]).tie_projs == [False]
    assert TransfoXLConfig(cutoffs=[9]).tie_projs == [False, True]
    assert TransfoXLConfig(proj_share_all_but_first=False).tie_projs == [False] * 4
    assert TransfoXLConfig(cutoffs=[9], proj_share_all_but_first=False).tie_projs == [False, False]


def test_a_given_tie_projs_wins_and_missing_entries_are_untied():
    assert TransfoXLConfig(tie_projs=[True, True]).tie_projs == [True, True, False, False]
    assert TransfoXLConfig(tie_projs=None).tie_projs == [False] * 4
    assert TransfoXLConfig(tie_projs=[True], proj_share_all_but_first=True).tie_projs == [True] + [False] * 3
    assert TransfoXLConfig(cutoffs=[], tie_projs=[True]).tie_projs == [True]


def test_a_given_tie_projs_survives_other_assignments():
    config = TransfoXLConfig(tie_projs=[True, False, False, False])
    config.dropout = 0.2
    assert config.tie_projs == [True, False, False, False]
    config.proj_share_all_but_first = True
    assert config.tie_projs == [False, True, True, True]


def test_needless_false_entries_of_tie_projs_change_nothing_later():
    config = TransfoXLConfig(tie_projs=[True, False, False, False, False])
    config.dropout = 0.2
    assert config.tie_projs[:4] == [True, False, False, False]


def test_a_tie_projs_of_another_number_of_bins_is_made_anew_in_an_update():
    config = TransfoXLConfig()
    config.cutoffs = [100]
    assert config.tie_projs == [False, True]


def test_a_copy_with_other_cutoffs_is_what_an_update_would_give():
    updated = TransfoXLConfig()
    updated.update(cutoffs=[100])
    assert TransfoXLConfig().copy(cutoffs=[100]) == updated


# ---------------------------------------------------------------------------------------------------------- labels


def test_a_number_of_labels_names_them():
    config = TransfoXLConfig(num_labels=3)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    config.num_labels = 1
    assert (config.num_labels, config.id2label, config.label2id) == (1, {0: "LABEL_0"}, {"LABEL_0": 0})


def test_names_of_labels_give_their_number():
    config = TransfoXLConfig(id2label={"0": "bad", "1": "good", "2": "so so"})
    assert config.num_labels == 3
    assert config.id2label == {0: "bad", 1: "good", 2: "so so"}
    assert config.label2id == {"bad": 0, "good": 1, "so so": 2}


def test_the_same_number_of_labels_keeps_their_names():
    config = TransfoXLConfig(id2label={0: "no", 1: "yes"})
    config.num_labels = 2
    assert config.id2label == {0: "no", 1: "yes"}


def test_names_and_number_of_labels_that_disagree_are_refused():
    with pytest.raises(ConfigError, match="num_labels"):
        TransfoXLConfig(id2label={0: "no", 1: "yes"}, num_labels=3)


def test_a_copy_with_the_same_number_of_labels_keeps_their_names():
    config = TransfoXLConfig(id2label={0: "no", 1: "yes", 2: "both"})
    assert config.copy(num_labels=3).id2label == {0: "no", 1: "yes", 2: "both"}


def test_a_copy_with_other_names_of_labels_has_their_numbers_too():
    config = TransfoXLConfig(num_labels=3).copy(id2label={0: "no", 1: "yes"})
    assert config.label2id == {"no": 0, "yes": 1}


# --------------------------------------------------------------------------------------------------------- JSON


def test_the_published_file_loads_and_its_keys_come_back(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(PUBLISHED), encoding="utf-8")
    config = TransfoXLConfig.from_pretrained(tmp_path)
    written = json.loads(config.to_json_string())
    assert {key: written[key] for key in PUBLISHED} == PUBLISHED
    assert config.tgt_len == 128
    assert config.task_specific_params["text-generation"]["max_length"] == 250
    assert config.vocab_size == config.n_token == 267735


def test_the_defaults_are_the_published_configuration():
    carried = {"ext_len", "tgt_len", "tie_weight", "task_specific_params", "torch_dtype", "transformers_version"}
    family_only = {key: value for key, value in PUBLISHED.items() if key not in carried | {"architectures"}}
    defaults = TransfoXLConfig().to_dict()
    assert {key: defaults[key] for key in family_only} == family_only


def test_an_old_file_with_n_token_is_read_and_written_with_vocab_size():
    config = TransfoXLConfig.from_dict({"n_token": 300000, "model_type": "transfo-xl"})
    assert config.vocab_size == 300000
    assert config.to_dict()["vocab_size"] == 300000
    assert "n_token" not in config.to_dict()


def test_dictionary_and_text_give_the_same_config_back():
    config = TransfoXLConfig(
        vocab_size=90, cutoffs=[10, 30], n_layer=3, tie_projs=[True, False, True], id2label={0: "ä", 1: "b", 2: "c"},
        pad_token_id=3, torch_dtype="bfloat16", task_specific_params={"a": [1, {"b": None}]}, window_rule="tf1",
        initial_memory="empty", eos_token_id=None, problem_type="regression", return_dict=False,
    )  # fmt: skip
    assert TransfoXLConfig.from_dict(config.to_dict()) == config
    again = TransfoXLConfig.from_dict(json.loads(config.to_json_string()))
    assert again == config
    assert again.id2label == {0: "ä", 1: "b", 2: "c"}
    assert "ä" in config.to_json_string()


def test_file_and_folder_give_the_same_config_back(tmp_path):
    config = TransfoXLConfig(n_layer=3, tie_weight=False)
    config.save_pretrained(tmp_path / "deep" / "er")
    assert TransfoXLConfig.from_pretrained(tmp_path / "deep" / "er") == config
    config.to_json_file(tmp_path / "other.json")
    assert TransfoXLConfig.from_json_file(tmp_path / "other.json") == config
    assert TransfoXLConfig.from_pretrained(str(tmp_path / "other.json"), n_layer=5).n_layer == 5


def test_overrides_win_under_any_name():
    assert TransfoXLConfig.from_dict({"n_head": 4}, num_heads=8).n_head == 8
    assert TransfoXLConfig.from_dict({"num_heads": 4}, n_head=8).n_head == 8
    with pytest.raises(ConfigError, match=r"unknown key 'n_hed'; did you mean 'n_head'\?"):
        TransfoXLConfig.from_dict({}, n_hed=8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "must hold JSON, got"),
        (b"", "must hold JSON, got"),
        (b"\xff\xfe{}", "must hold JSON, got"),
        (b"[" * 100_000, "must hold JSON, got"),
        (b"[1, 2]", "must hold a JSON object, got list"),
        (b"null", "must hold a JSON object, got NoneType"),
        (b'{"n_head": 0}', "TransfoXLConfig: n_head must be positive, got 0"),
        (b'{"dropout": NaN}', "TransfoXLConfig: dropout must be finite, got nan"),
    ],
)
def test_a_broken_file_is_refused(tmp_path, content, message):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        TransfoXLConfig.from_pretrained(tmp_path)
    assert message in str(refused.value)
    assert str(refused.value).startswith(("TransfoXLConfig: ", f"{file}: "))


def test_a_missing_file_is_refused_by_its_path(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.json: must be a readable file, got No such file or directory"):
        TransfoXLConfig.from_json_file(tmp_path / "nowhere.json")
    with pytest.raises(ConfigError, match=r"config\.json: must be a readable file"):
        TransfoXLConfig.from_pretrained(tmp_path)


# ------------------------------------------------------------------------------------------------ copies and equality


def test_equality_is_of_type_and_of_every_key():
    assert TransfoXLConfig() == TransfoXLConfig()
    assert TransfoXLConfig(n_layer=2) != TransfoXLConfig(n_layer=3)
    assert TransfoXLConfig(tgt_len=2) != TransfoXLConfig()
    assert TransfoXLConfig() != TransfoXLConfig().to_dict()
    with pytest.raises(TypeError, match="unhashable"):
        hash(TransfoXLConfig())


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, TransfoXLConfig.copy, lambda config: pickle.loads(pickle.dumps(config))],
    ids=["shallow", "deep", "copy", "pickle"],
)
def test_a_duplicate_is_equal_and_of_its_own(duplicate):
    config = TransfoXLConfig(n_layer=2, prefix="x")
    other = duplicate(config)
    assert other == config
    assert type(other) is TransfoXLConfig
    other.update(n_layer=5, prefix="y", num_labels=4)
    assert (config.n_layer, config.prefix, config.num_labels) == (2, "x", 2)
    with pytest.raises(ConfigError, match="n_head must be positive"):
        other.n_head = 0


@pytest.mark.parametrize("name", ["cutoffs", "tie_projs", "id2label", "label2id", "task_specific_params"])
def test_a_copy_shares_nothing_that_can_change(name):
    config = TransfoXLConfig(num_labels=3, task_specific_params={"a": {}})
    other = config.copy()
    assert getattr(other, name) == getattr(config, name)
    assert getattr(other, name) is not getattr(config, name)


def test_what_to_dict_gives_is_the_callers():
    config = TransfoXLConfig()
    config.to_dict()["cutoffs"].append(1)
    assert config.cutoffs == [20000, 40000, 200000]


def test_copy_takes_changes():
    config = TransfoXLConfig(n_layer=2)
    assert config.copy(n_layer=3, n_token=300000) == TransfoXLConfig(n_layer=3, vocab_size=300000)
    assert config.n_layer == 2


def test_the_representation_shows_what_differs_from_the_defaults():
    assert repr(TransfoXLConfig()) == "TransfoXLConfig()"
    assert repr(TransfoXLConfig(num_heads=4, tgt_len=8)) == "TransfoXLConfig(n_head=4, tgt_len=8)"
