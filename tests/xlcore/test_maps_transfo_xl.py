"""Where checkpoints of Transformer-XL come from: what is derived from which tensors and files, and what is refused."""

import numpy as np
import pytest

from xlcore import FAMILIES, ConfigError, TransfoXLConfig
from xlcore.families.transfo_xl import RELEASED
from xlcore.maps import ORIGINS
from xlcore.maps.transfo_xl import TF1, tf1
from xlcore.maps.transfo_xl_origins import BODY, CLASSIFIER, LM, untied
from xlcore.origin import Seen

FAMILY = FAMILIES["transfo-xl"]
HEADS = {head.name: head for head in FAMILY.heads}
ORIGIN = {origin.name: origin for origin in ORIGINS if origin.model_type == "transfo-xl"}
SMALL = {
    "vocab_size": 50, "cutoffs": [10, 30], "d_model": 8, "d_embed": 8, "div_val": 2, "n_head": 2, "d_head": 3,
    "d_inner": 12, "n_layer": 2, "mem_len": 4,
}  # fmt: skip


def config_of(**keys) -> TransfoXLConfig:
    return TransfoXLConfig(**{**SMALL, **keys})


def seen(origin, config, head=LM, *, without=(), side=None, given=None) -> Seen:
    """Return what a checkpoint of an origin shows, some tensors left out."""
    table = dict(FAMILY.params(config, HEADS[head]))
    if origin != "hf":  # safetensors has one name for each tensor
        first = FAMILY.ties_within(config, HEADS[head])
        table |= {alias: table[first[alias]] for alias in ORIGIN[origin].copies(config, HEADS[head]) if alias in first}
    shapes = ORIGIN[origin].weights(config, HEADS[head]).shapes(table)
    kept = {name: shape for name, shape in shapes.items() if name not in without}
    return Seen("here", kept, {name: name for name in kept}, side or {}, given or {})


def derived(origin, config, head=LM, **more) -> TransfoXLConfig:
    return TransfoXLConfig(**ORIGIN[origin].derive(seen(origin, config, head, **more)).keys)


# --------------------------------------------------------------------------------------------- the authors' TensorFlow


def test_the_authors_tensorflow_has_its_window_epsilon_and_memory():
    found = derived("tf1", config_of())
    assert (found.window_rule, found.layer_norm_epsilon, found.initial_memory) == ("tf1", 1e-12, "zeros")


@pytest.mark.parametrize("name", [name for name in RELEASED if name.startswith("tf_")])
def test_released_models_are_evaluated_as_the_authors_did(name):
    config = TransfoXLConfig(**RELEASED[name])
    found = derived("tf1", config)
    expected = config.to_dict() | {"tie_projs": found.tie_projs}
    assert found.to_dict() | {"proj_share_all_but_first": expected["proj_share_all_but_first"]} == expected
    notes = ORIGIN["tf1"].derive(seen("tf1", config)).notes
    assert f"from the evaluation of {name}, whose sizes these are" in notes[-1]


def test_flags_tell_what_no_tensor_does():
    flags = {"mem_len": 7, "clamp_len": 5, "same_length": False, "dropout": 0.3, "batch_size": 60, "d_embed": -1}
    found = derived("tf1", config_of(), side={"flags.json": flags | {"d_model": 8}})
    assert (found.mem_len, found.clamp_len, found.same_length, found.dropout) == (7, 5, False, 0.3)


@pytest.mark.parametrize(
    ("side", "message"),
    [
        ({"flags.json": {"n_layer": 3}}, r"^here: n_layer of flags\.json must be 2, as the tensors have it, got 3$"),
        ({"corpus-info.json": {"vocab_size": 51}}, r"vocab_size of corpus-info\.json must be 50, as .* got 51$"),
        (
            {"corpus-info.json": {"cutoffs": [0, 10, 31, 50]}},
            r"cutoffs of corpus-info\.json must be \[10, 30\], .*31\]$",
        ),
    ],
)
def test_files_that_contradict_the_tensors_are_refused(side, message):
    with pytest.raises(ConfigError, match=message):
        derived("tf1", config_of(), side=side)


def test_the_corpus_of_characters_has_no_cutoffs():
    config = config_of(cutoffs=[], div_val=1)
    assert derived("tf1", config, side={"corpus-info.json": {"vocab_size": 50, "cutoffs": []}}).cutoffs == []


@pytest.mark.parametrize(
    ("keys", "without", "expected"),
    [
        ({}, (), [False, True, True]),
        ({"tie_projs": [False] * 3}, (), [False, False, False]),
        ({"tie_projs": [True] * 3}, (), [False, True, True]),  # the first is a variable of its own there, always
        ({"tie_projs": [True] * 3}, ("transformer/adaptive_softmax/cutoff_0/proj",), [True, True, True]),
        (
            {"tie_projs": [False] * 3},
            ("transformer/adaptive_embed/cutoff_0/proj_W", "transformer/adaptive_softmax/cutoff_0/proj"),
            [False, False, False],
        ),
        ({"div_val": 1, "d_embed": 4}, (), [False, True, True]),
        ({"div_val": 1, "d_embed": 4, "cutoffs": [], "tie_projs": [True]}, (), [True]),
    ],
)
def test_a_projection_that_is_left_out_is_tied_or_the_identity(keys, without, expected):
    assert derived("tf1", config_of(**keys), without=without).tie_projs == expected


def test_biases_of_one_table_tell_the_cutoffs():
    config = config_of(div_val=1)
    assert derived("tf1", config).cutoffs == [10, 30]
    shapes = tf1(config, HEADS[LM]).shapes(FAMILY.params(config, HEADS[LM]))
    assert [shapes[f"transformer/adaptive_softmax/cutoff_{i}/b"] for i in range(3)] == [(10,), (20,), (20,)]


def test_shared_biases_have_no_axis_of_layers():
    assert derived("tf1", config_of(untie_r=False)).untie_r is False
    shapes = tf1(config_of(untie_r=False), HEADS[LM]).shapes(FAMILY.params(config_of(untie_r=False), HEADS[LM]))
    assert shapes["transformer/r_w_bias"] == (2, 3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("transformer/layer_0/ff/layer_1/kernel/Adam", "the optimizer's"),
        ("transformer/layer_0/ff/layer_1/kernel/Adam_1", "the optimizer's"),
        ("beta1_power", "the optimizer's"),
        ("global_step", "a count of training steps"),
        ("other/thing", "outside the scope of the model"),
        ("transformer/r_w_bias/as it was last", "the averaged values stand there, too, and are what is evaluated"),
        ("transformer/unheard/of", None),
        ("transformer/r_w_bias", None),
    ],
)
def test_what_training_leaves_behind_is_ignored_for_a_reason(name, reason):
    assert TF1.why_ignored(name) == reason


# ------------------------------------------------------------------------------------------------ the authors' PyTorch


def test_the_authors_pytorch_starts_from_an_empty_memory():
    found = derived("torch-original", config_of(untie_r=False))
    assert (found.initial_memory, found.layer_norm_epsilon, found.untie_r) == ("empty", 1e-5, False)


@pytest.mark.parametrize("key", ["tie_weight", "tied", "not_tied"])
def test_arguments_tell_what_is_tied(key):
    args = {key: key == "not_tied", "tie_projs": [False, True, False], "d_embed": None, "d_model": 8, "lr": 1.0}
    found = derived("torch-original", config_of(untie_r=False), side={"args.json": args})
    assert (found.tie_word_embeddings, found.tie_projs, found.d_embed) == (False, [False, True, False], 8)


def test_the_rows_of_clusters_stand_the_other_way_round():
    config = config_of(untie_r=False)
    recipes = ORIGIN["torch-original"].weights(config, HEADS[LM]).recipes(FAMILY.params(config, HEADS[LM]))
    rows = np.arange(16.0).reshape(2, 8)
    assert np.array_equal(recipes["crit.cluster_weight"].lay(rows), rows[::-1])
    assert np.array_equal(recipes["crit.cluster_bias"].lay(rows[:, 0]), rows[::-1, 0])


def test_an_unknown_kind_of_attention_is_refused():
    with pytest.raises(ConfigError, match="attn_type must be one of 0, got 2"):
        derived("torch-original", config_of(untie_r=False), side={"args.json": {"attn_type": 2}})


# --------------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("origin", ["hf", "hf-tf", "torch-original"])
def test_cutoffs_that_no_tensor_tells_must_be_given(origin):
    config = config_of(div_val=1, untie_r=False)
    expected = r"^here: the cutoffs of its one table must be told, got tensors that do not; give the key 'cutoffs' or a"
    with pytest.raises(ConfigError, match=expected):
        ORIGIN[origin].derive(seen(origin, config) if origin != "hf-tf" else seen("hf-tf", config_of(div_val=1)))
    assert derived("torch-original", config, side={"args.json": {"cutoffs": [10, 30]}}).cutoffs == [10, 30]
    assert derived("hf", config, given={"cutoffs": [10, 30]}).cutoffs == [10, 30]
    assert derived("hf", config, head=BODY).cutoffs == []


def test_tensors_of_no_model_make_no_config():
    with pytest.raises(
        ConfigError, match=r"^here: a config must be there or follow from embeddings and layers, got neither"
    ):
        ORIGIN["hf"].derive(Seen("here", {"transformer.word_emb.emb_layers.0.weight": (5, 4)}))


def test_a_divisor_is_one_that_gives_the_widths():
    assert derived("hf", config_of(d_embed=16, div_val=4)).div_val == 4
    assert derived("hf", config_of(d_embed=5, div_val=2, cutoffs=[10])).div_val == 2
    loose = config_of(d_embed=5, div_val=5, cutoffs=[10])
    assert derived("hf", loose).div_val == 3  # 5 // 3 = 5 // 5
    assert derived("hf", loose, given={"div_val": 5}).div_val == 5
    assert derived("hf", config_of(cutoffs=[], div_val=3)).div_val > 1  # a projection between equal sizes


@pytest.mark.parametrize("head", HEADS)
def test_the_head_follows_from_its_tensors(head):
    config = config_of(num_labels=4)
    for origin in ("hf", "hf-tf"):
        assert ORIGIN[origin].head(seen(origin, config, head), config) == head
    if head == CLASSIFIER:
        assert derived("hf-tf", config, head).num_labels == 4


def test_copies_that_differ_untie_what_they_are_copies_of():
    config = config_of(untie_r=False)
    found = untied(config, ["crit.bins.1.projection", "crit.bins.0.weight", "blocks.1.attention.content_bias"])
    assert (found.tie_projs, found.tie_word_embeddings, found.untie_r) == ([False, False, True], False, True)
    assert untied(config, ["crit.bins.2.projection"]).tie_word_embeddings


@pytest.mark.parametrize(
    ("origin", "keys", "head", "message"),
    [
        ("hf-tf", {"untie_r": False}, LM, "untie_r must be True there, got False"),
        ("hf-tf", {"div_val": 1}, LM, "div_val must be above 1 there, got 1"),
        ("torch-original", {}, LM, "untie_r must be False there, got True"),
        ("torch-original", {"untie_r": False}, BODY, f"head must be {LM} there, got {BODY}"),
        ("tf1", {}, CLASSIFIER, f"head must be {LM} there, got {CLASSIFIER}"),
        ("tf1", {"pre_lnorm": True}, LM, "pre_lnorm must be False there, got True"),
        ("tf1", {"tie_word_embeddings": False}, LM, "tie_word_embeddings must be True there, got False"),
        ("tf1", {"cutoffs": [], "div_val": 1, "d_embed": 4}, LM, "tie_projs must be [True] there, got [False]"),
    ],
)
def test_what_an_origin_has_no_way_to_hold_is_refused(origin, keys, head, message):
    with pytest.raises(ConfigError) as refused:
        ORIGIN[origin].check(config_of(**keys), HEADS[head])
    assert str(refused.value) == f"{origin}: {message}; choose another format"


def test_the_authors_files_come_back_from_what_is_written_beside():
    config = config_of(
        mem_len=9, clamp_len=7, same_length=False, window_rule="tf1", layer_norm_epsilon=1e-12, dropout=0.3, tgt_len=5
    )
    side = ORIGIN["tf1"].side(config, HEADS[LM])
    assert side["corpus-info.json"] == {"vocab_size": 50, "cutoffs": [0, 10, 30, 50]}
    assert derived("tf1", config, side=side) == config
    other = config_of(initial_memory="empty", untie_r=False, same_length=False, pre_lnorm=True, tie_projs=[False] * 3)
    assert derived("torch-original", other, side=ORIGIN["torch-original"].side(other, HEADS[LM])) == other
