"""Where checkpoints of XLNet come from: what is derived from which tensors and files, and what is refused."""

import pytest

from xlcore import FAMILIES, ConfigError
from xlcore.families.xlnet import XLNetConfig
from xlcore.maps import ORIGINS
from xlcore.maps.xlnet import TF1, tf1
from xlcore.maps.xlnet_origins import plain_tf1
from xlcore.origin import Seen

FAMILY = FAMILIES["xlnet"]
HEADS = {head.name: head for head in FAMILY.heads}
ORIGIN = {origin.name: origin for origin in ORIGINS if origin.model_type == "xlnet"}
LM, CLASSIFIER, QA = "XLNetLMHeadModel", "XLNetForSequenceClassification", "XLNetForQuestionAnswering"
TAGGER = "XLNetForTokenClassification"
SMALL = {
    "vocab_size": 30, "d_model": 8, "n_head": 2, "d_inner": 12, "n_layer": 2, "ff_activation": "gelu_new",
    "num_labels": 3,
}  # fmt: skip


def config_of(**keys) -> XLNetConfig:
    return XLNetConfig(**{**SMALL, **keys})


def seen(origin, config, head=LM, *, without=(), side=None) -> Seen:
    """Return what a checkpoint of an origin shows, some tensors left out."""
    it = ORIGIN[origin]
    shapes = it.weights(config, HEADS[head]).shapes(FAMILY.params(config, HEADS[head]), config.sizes)
    kept = {name: shape for name, shape in shapes.items() if name not in without}
    return Seen("here", kept, dict(it.written(kept, config, HEADS[head])), side or {})


def derived(origin, config, head=LM, **more) -> XLNetConfig:
    return XLNetConfig(**ORIGIN[origin].derive(seen(origin, config, head, **more)).keys)


def test_the_authors_gelu_is_the_one_by_tanh():
    assert derived("tf1", config_of()).ff_activation == "gelu_new"
    sizes = {
        "ff_activation": "gelu",
        "n_token": 30,
        "n_layer": 2,
        "d_model": 8,
        "n_head": 2,
        "d_head": 4,
        "d_inner": 12,
    }
    assert derived("tf1", config_of(), side={"xlnet_config.json": sizes}).ff_activation == "gelu_new"
    relu = sizes | {"ff_activation": "relu"}
    assert derived("tf1", config_of(), side={"xlnet_config.json": relu}).ff_activation == "relu"


def test_a_config_that_contradicts_the_tensors_is_refused():
    with pytest.raises(ConfigError, match=r"^here: n_layer of xlnet_config\.json must be 2, as the tensors .* got 12$"):
        derived("tf1", config_of(), side={"xlnet_config.json": {"n_layer": 12}})


def test_flags_of_pretraining_are_of_no_effect_after_it():
    flags = {"mem_len": 5, "reuse_len": 4, "bi_data": True, "dropout": 0.2, "dropatt": 0.3, "clamp_len": 6}
    pretrained = derived("tf1", config_of(), side={"flags.json": flags})
    assert (pretrained.mem_len, pretrained.reuse_len, pretrained.bi_data) == (5, 4, True)
    tuned = derived("tf1", config_of(), CLASSIFIER, side={"flags.json": flags})
    assert (tuned.mem_len, tuned.reuse_len, tuned.bi_data, tuned.use_mems_eval) == (None, None, False, False)
    assert (tuned.dropout, tuned.dropatt, tuned.clamp_len) == (0.2, 0.3, 6)


def test_the_reader_of_answers_works_as_the_authors_did():
    found = derived("tf1", config_of(), QA, side={"flags.json": {"start_n_top": 3, "end_n_top": 2, "dropout": 0.2}})
    assert (found.start_major, found.soft_start, found.answer_dropout) == (True, True, 0.2)
    assert (found.start_n_top, found.end_n_top) == (3, 2)


@pytest.mark.parametrize(
    ("labels", "kind", "problem"),
    [(3, "classification", "single_label_classification"), (1, "regression", "regression")],
)
def test_the_task_stands_in_the_names_of_its_scores(labels, kind, problem):
    config = config_of(num_labels=labels, finetuning_task="mnli_matched")
    names = ORIGIN["tf1"].written(["model/task/logit/kernel"], config, HEADS[CLASSIFIER])
    assert names == {"model/task/logit/kernel": f"model/{kind}_mnli_matched/logit/kernel"}
    assert plain_tf1(names.values()) == {f"model/{kind}_mnli_matched/logit/kernel": "model/task/logit/kernel"}
    found = derived("tf1", config, CLASSIFIER)
    assert (found.finetuning_task, found.problem_type, found.num_labels) == ("mnli_matched", problem, labels)


def test_a_summary_without_its_projection_is_seen():
    config = config_of(summary_use_proj=False)
    for origin in ("hf", "hf-tf", "tf1"):
        assert derived(origin, config, CLASSIFIER).summary_use_proj is False


def test_choices_are_scored_under_a_name_of_their_own():
    config, head = config_of(), HEADS["XLNetForMultipleChoice"]
    shapes = tf1(config, head).shapes(FAMILY.params(config, head), config.sizes)
    assert shapes["logits/dense/kernel"] == (8, 1)
    assert ORIGIN["tf1"].head(seen("tf1", config, "XLNetForMultipleChoice"), config) == "XLNetForMultipleChoice"


def test_layers_share_their_biases_or_have_their_own():
    for untie_r, shape in ((True, (2, 2, 4)), (False, (2, 4))):
        config = config_of(untie_r=untie_r)
        shapes = tf1(config, HEADS[LM]).shapes(FAMILY.params(config, HEADS[LM]), config.sizes)
        assert {shapes[f"model/transformer/{name}"] for name in ("r_w_bias", "r_r_bias", "r_s_bias")} == {shape}
        assert shapes["model/transformer/seg_embed"] == (2, 2, 2, 4)
        assert derived("tf1", config).untie_r is untie_r


def test_what_a_run_leaves_out_stands_for_zeros():
    for untie_r in (True, False):
        weights = tf1(config_of(untie_r=untie_r), HEADS[LM])
        found = {name for name in FAMILY.body(config_of()) if weights.theirs(name)[1].absent == "zeros"}
        layers = {f"blocks.{i}.attention.{part}" for i in (0, 1) for part in ("segment_bias", "segment_embedding")}
        assert found == {"mask_embedding", *layers}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("origin", ["hf", "hf-tf", "tf1"])
def test_the_head_follows_from_its_tensors(origin, head):
    try:
        ORIGIN[origin].check(config_of(), HEADS[head])
    except ConfigError:
        return
    found = ORIGIN[origin].head(seen(origin, config_of(), head), config_of())
    text = {CLASSIFIER, "XLNetForMultipleChoice"}  # transformers calls both alike
    assert found == (CLASSIFIER if head in text and origin != "tf1" else head)


def test_optimizers_are_ignored():
    for name in ("model/transformer/r_w_bias/adam_m", "model/lm_loss/bias/Adam_1", "beta2_power", "global_step"):
        assert TF1.why_ignored(name)
    assert TF1.why_ignored("model/sequnece_summary/summary_bias") is None


def test_tensors_of_no_model_make_no_config():
    with pytest.raises(
        ConfigError, match=r"^here: a config must be there or follow from embeddings and layers, got neither"
    ):
        ORIGIN["tf1"].derive(Seen("here", {"model/transformer/r_w_bias": (2, 2, 4)}))


@pytest.mark.parametrize(
    ("origin", "keys", "head", "message"),
    [
        ("hf-tf", {}, QA, "head must be one that it has, got XLNetForQuestionAnswering"),
        ("hf-tf", {"tie_word_embeddings": False}, LM, "tie_word_embeddings must be True there, got False"),
        ("tf1", {}, TAGGER, "head must be one of the authors', got XLNetForTokenClassification"),
        ("tf1", {"ff_activation": "gelu"}, LM, "ff_activation must be 'gelu_new' there, got 'gelu'"),
        ("tf1", {"layer_norm_eps": 1e-5}, LM, "layer_norm_eps must be 1e-12 there, got 1e-05"),
    ],
)
def test_what_an_origin_has_no_way_to_hold_is_refused(origin, keys, head, message):
    with pytest.raises(ConfigError) as refused:
        ORIGIN[origin].check(config_of(**keys), HEADS[head])
    assert str(refused.value) == f"{origin}: {message}; choose another format"


def test_the_authors_files_come_back_from_what_is_written_beside():
    config = config_of(mem_len=9, reuse_len=3, clamp_len=7, dropatt=0.0, attn_type="bi")
    side = ORIGIN["tf1"].side(config, HEADS[LM])
    assert side["xlnet_config.json"] == {
        "n_token": 30, "n_layer": 2, "d_model": 8, "n_head": 2, "d_head": 4, "d_inner": 12, "ff_activation": "gelu",
        "untie_r": True,
    }  # fmt: skip
    assert derived("tf1", config, side=side) == config.copy(num_labels=2)
