"""What the specification says of XLM: its config, its parameters, their names elsewhere, and released models."""

import json
import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from xlcore import FAMILIES, Config, ConfigError, XLMConfig
from xlcore.families.xlm import EXAMPLES, RELEASED, ties
from xlcore.maps import HF
from xlcore.params import SINUSOID, ZEROS, Init, normal, sinusoid, uniform

GOLDEN = Path(__file__).parents[1] / "golden"
FAMILY = FAMILIES["xlm"]
HEADS = {head.name: head for head in FAMILY.heads}
SMALL = {"vocab_size": 20, "emb_dim": 12, "n_heads": 3, "n_layers": 2}


def count(name, **keys):
    """Count the numbers in the parameters of a model."""
    return sum(math.prod(param.shape) for param in FAMILY.params(XLMConfig(**keys), HEADS[name]).values())


# ---------------------------------------------------------------------------------------------------------- config


def test_the_defaults_are_those_of_the_english_model():
    config = XLMConfig()
    assert (config.vocab_size, config.emb_dim, config.n_layers, config.n_heads) == (30145, 2048, 12, 16)
    assert (config.head_dim, config.feed_forward_size, config.activation) == (128, 8192, "gelu")
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (0, 1, 2)
    assert (config.mask_token_id, config.lang_id, config.unk_index, config.mask_index) == (0, 0, 3, 5)
    assert not config.has_languages


def test_known_names_are_read_and_ids_have_one_value_under_two_names():
    config = XLMConfig(n_words=30, hidden_size=16, num_attention_heads=4, num_hidden_layers=3, pad_index=7, eos_index=5)
    assert (config.vocab_size, config.emb_dim, config.n_heads, config.n_layers) == (30, 16, 4, 3)
    assert (config.num_heads, config.num_layers, config.pad_index, config.pad_token_id) == (4, 3, 7, 7)
    written = config.to_dict()
    assert (written["pad_index"], written["pad_token_id"], written["eos_index"], written["eos_token_id"]) == (
        7,
        7,
        5,
        5,
    )
    assert XLMConfig.from_dict(json.loads(config.to_json_string())) == config
    with pytest.raises(
        ConfigError, match=r"^XLMConfig: pad_token_id must equal pad_index \(one key, two names\), got 2$"
    ):
        XLMConfig(pad_index=7, pad_token_id=2)


def test_several_ends():
    config = XLMConfig(eos_token_id=[1, 3])
    assert config.eos_token_id == [1, 3]
    assert "eos_index" not in config.to_dict()


REFUSED = {
    "no size": ({"emb_dim": 0}, "emb_dim must be positive, got 0"),
    "heads": ({"emb_dim": 10, "n_heads": 4}, "emb_dim must be a multiple of n_heads=4, got 10"),
    "no languages": ({"n_langs": 0}, "n_langs must be positive, got 0"),
    "dropout": ({"dropout": 1.5}, "dropout must lie in [0, 1], got 1.5"),
    "kind": ({"n_layers": "x"}, "n_layers must be a whole number, got 'x'"),
    "padding": ({"vocab_size": 20, "pad_token_id": 20}, "pad_token_id must lie in the vocabulary of 20, got 20"),
    "language": ({"n_langs": 3, "lang_id": 3}, "lang_id must lie in [0, n_langs=3), got 3"),
    "summary": (
        {"summary_type": "attn"},
        "summary_type must be one of 'first', 'last', 'mean', 'cls_index', got 'attn'",
    ),
    "problem": (
        {"problem_type": "ranking"},
        "problem_type must be one of 'regression', 'single_label_classification', 'multi_label_classification', "
        "got 'ranking'",
    ),
    "no clusters": ({"asm": True}, "asm_cutoffs must rise from above 0 to below vocab_size=30145 with asm, got []"),
    "falling clusters": (
        {"asm": True, "asm_cutoffs": [20, 10]},
        "asm_cutoffs must rise from above 0 to below vocab_size=30145 with asm, got [20, 10]",
    ),
    "last cluster empty": (
        {"asm": True, "asm_cutoffs": [20], "vocab_size": 20},
        "asm_cutoffs must rise from above 0 to below vocab_size=20 with asm, got [20]",
    ),
    "no divisor": (
        {"asm": True, "asm_cutoffs": [20]},
        "asm_div_value must be above 1 with asm, and leave the last cluster a width, got None",
    ),
    "divisor of one": (
        {"asm": True, "asm_cutoffs": [20], "asm_div_value": 1.0},
        "asm_div_value must be above 1 with asm, and leave the last cluster a width, got 1.0",
    ),
    "too narrow": (
        {"asm": True, "asm_cutoffs": [20, 30], "asm_div_value": 4.0, "emb_dim": 12, "n_heads": 3},
        "asm_div_value must be above 1 with asm, and leave the last cluster a width, got 4.0",
    ),
    "words for borders": ({"asm_cutoffs": "a,b"}, "asm_cutoffs must be a list of whole numbers, got 'a,b'"),
    "decoder that looks ahead": ({"is_encoder": False}, "causal must be true for a decoder, got False"),
    "pruned layer": ({"n_layers": 2, "pruned_heads": {2: [0]}}, "pruned_heads must name layers below 2, got 2"),
    "pruned head": ({"pruned_heads": {0: [16]}}, "pruned_heads[0] must name some of the 16 heads, not all, got [16]"),
    "all pruned": (
        {**SMALL, "pruned_heads": {"0": [2, 0, 1]}},
        "pruned_heads[0] must name some of the 3 heads, not all, got [0, 1, 2]",
    ),
    "pruned list": ({"pruned_heads": [1]}, "pruned_heads must map numbers of layers to lists of heads, got [1]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_not_run_is_refused(name):
    keys, message = REFUSED[name]
    with pytest.raises(ConfigError, match=f"^XLMConfig: {re.escape(message)}$"):
        XLMConfig(**keys)


def test_borders_of_clusters_as_on_the_authors_command_line():
    assert XLMConfig(asm_cutoffs="8000,20000").asm_cutoffs == [8000, 20000]


def test_pruned_heads_come_back_from_json():
    config = XLMConfig(pruned_heads={1: [3, 0, 3], 0: []})
    assert config.pruned_heads == {1: [0, 3]}
    assert config.kept_heads(1) == [1, 2, *range(4, 16)]
    assert XLMConfig.from_dict(json.loads(config.to_json_string())).pruned_heads == {1: [0, 3]}
    more = config.without_heads({1: [5], 2: [1]})
    assert (more.pruned_heads, config.pruned_heads) == ({1: [0, 3, 5], 2: [1]}, {1: [0, 3]})


def test_a_converted_original_comes_back_with_what_it_carries_of_its_training():
    """A part of the 42 kB of xlm-mlm-100-1280."""
    published = {
        "architectures": ["XLMWithLMHeadModel"], "model_type": "xlm", "accumulate_gradients": 4, "ae_steps": [],
        "amp": 1, "asm": False, "batch_size": 16, "bptt": 256, "clm_steps": [], "command": "python train.py",
        "early_stopping": False, "emb_dim": 1280, "fp16": True, "id2lang": {"0": "af", "1": "als"},
        "lang2id": {"af": 0, "als": 1}, "langs": ["af", "als"], "length_penalty": 1, "lgs": "af-als", "max_vocab": 9,
        "mlm_steps": [["af", None], ["als", None]], "n_heads": 16, "n_langs": 100, "n_layers": 16, "n_words": 200000,
        "share_inout_emb": True, "same_enc_dec": True, "use_lang_emb": False, "pad_index": 2, "eos_index": 1,
        "word_mask_keep_rand": "0.8,0.1,0.1", "world_size": 64, "sample_alpha": 0.5, "tokens_per_batch": -1,
    }  # fmt: skip
    config = XLMConfig.from_dict(published)
    written = json.loads(config.to_json_string())
    assert {key: written[key] for key in published if key != "n_words"} == {
        key: value for key, value in published.items() if key != "n_words"
    }
    assert (config.vocab_size, config.lang2id, config.has_languages) == (200000, {"af": 0, "als": 1}, False)
    with pytest.raises(ConfigError, match=r"unknown key 'n_haeds'; did you mean 'n_heads'\?"):
        XLMConfig(n_haeds=3)


@pytest.mark.parametrize(
    "keys", [{"clm_steps": [["en", None]], "mlm_steps": []}, {"_name_or_path": "FacebookAI/xlm-clm-enfr-1024"}], ids=str
)
def test_a_model_trained_on_next_words_whose_file_does_not_say_so(keys):
    """Published files do not: `causal=True` makes it what it was, and no answer is a warning."""
    with pytest.warns(
        UserWarning, match=r"^XLMConfig: causal must be true for what was trained on next words, got fal"
    ):
        XLMConfig.from_dict(keys)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert XLMConfig.from_dict(keys, causal=True).causal
        assert not XLMConfig.from_dict(keys, causal=False).causal
        XLMConfig.from_dict({"mlm_steps": [["en", None]], "clm_steps": [["en", None]]})


# ------------------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ("name", "body", "language_model"),
    [
        ("xlm-mlm-en-2048", 667_088_896, 667_119_041),
        ("xlm-mlm-ende-1024", 142_357_504, 142_422_203),
        ("xlm-mlm-enfr-1024", 141_784_064, 141_848_203),
        ("xlm-mlm-enro-1024", 142_247_936, 142_312_528),
        ("xlm-clm-ende-1024", 142_357_504, 142_422_203),
        ("xlm-clm-enfr-1024", 141_784_064, 141_848_203),
        ("xlm-mlm-xnli15-1024", 248_976_384, 249_071_384),
        ("xlm-mlm-tlm-xnli15-1024", 248_976_384, 249_071_384),
        ("xlm-mlm-17-1280", 571_496_960, 571_696_960),
        ("xlm-mlm-100-1280", 571_496_960, 571_696_960),
    ],
)
def test_released_models_have_their_known_number_of_parameters(name, body, language_model):
    assert count("XLMModel", **RELEASED[name]) == body
    assert count("XLMWithLMHeadModel", **RELEASED[name]) == language_model


def test_every_released_model_is_counted_and_next_words_are_causal():
    assert len(RELEASED) == 10
    assert {name for name, keys in RELEASED.items() if keys.get("causal")} == {"xlm-clm-ende-1024", "xlm-clm-enfr-1024"}


def test_initial_values_follow_the_config():
    config = XLMConfig(**SMALL, n_langs=2, init_std=0.3, embed_init_std=0.4, sinusoidal_embeddings=True)
    table = FAMILY.params(config, HEADS["XLMWithLMHeadModel"])
    starts = {
        "embedding.weight": Init("normal", 0.0, 0.4, 2),
        "embedding_of_positions.weight": SINUSOID,
        "embedding_of_languages.weight": normal(0.4),
        "blocks.0.attention.query.weight": normal(0.3),
        "blocks.0.attention.query.bias": ZEROS,
        "lm_head.bias": ZEROS,
    }
    assert {name: table[name].init for name in starts} == starts
    authors = FAMILY.body(config.copy(init="authors", sinusoidal_embeddings=False))
    assert authors["embedding.weight"].init == Init("normal", 0.0, 12**-0.5, 2)
    assert authors["embedding_of_positions.weight"].init == normal(12**-0.5)
    assert authors["blocks.0.feed_forward.outer.weight"].init == uniform(48**-0.5)
    assert authors["blocks.0.feed_forward.outer.bias"].init == uniform(48**-0.5)
    assert FAMILY.body(config.copy(embed_init_std=None))["embedding.weight"].init.spread == 1.0


def test_encodings_of_positions_are_sines_and_cosines_in_turn():
    found = sinusoid(5, 7)
    assert found.shape == (5, 7)
    for column in range(7):
        angles = np.arange(5) / 10000 ** (2 * (column // 2) / 7)
        np.testing.assert_allclose(found[:, column], (np.cos if column % 2 else np.sin)(angles), atol=1e-15)


def test_tables_are_tied_but_for_clusters():
    assert ties(XLMConfig(**SMALL)) == {"lm_head.weight": "embedding.weight"}
    assert ties(XLMConfig(**SMALL, tie_word_embeddings=False)) == {}
    assert ties(XLMConfig(**SMALL, asm=True, asm_cutoffs=[9], asm_div_value=2.0)) == {}


def test_clusters_under_their_known_names():
    config = XLMConfig(**{**SMALL, "vocab_size": 61}, asm=True, asm_cutoffs=[20, 40], asm_div_value=2.0)
    shapes = HF["xlm"].shapes(FAMILY.params(config, HEADS["XLMWithLMHeadModel"]), config.sizes)
    assert {name: shape for name, shape in shapes.items() if name.startswith("pred_layer")} == {
        "pred_layer.proj.head.weight": (22, 12),
        "pred_layer.proj.head.bias": (22,),
        "pred_layer.proj.tail.0.0.weight": (6, 12),
        "pred_layer.proj.tail.0.1.weight": (20, 6),
        "pred_layer.proj.tail.1.0.weight": (3, 12),
        "pred_layer.proj.tail.1.1.weight": (21, 3),
    }


def test_the_examples_use_every_key_that_changes_what_is_computed():
    used = {key for keys in EXAMPLES.values() for key in keys}
    unused = {key for key in XLMConfig.fields if key not in used}
    shared = set(vars(Config))
    without = {"dropout", "attention_dropout", "embed_init_std", "init_std", "init", "layer_norm_eps", "unk_index"}
    without |= {"mask_index", "mask_token_id", "lang_id", "summary_use_proj", "summary_proj_to_labels"}
    without |= {"summary_first_dropout", "summary_last_dropout", "bos_token_id", "eos_token_id"}
    assert unused - shared == without - shared


def golden_cases():
    return sorted(GOLDEN.glob("xlm-*.safetensors"))


def test_there_are_golden_cases():
    assert len(golden_cases()) == 19


@pytest.mark.parametrize("file", golden_cases(), ids=lambda file: file.stem)
def test_names_and_shapes_are_those_of_the_reference(file):
    with safe_open(file, "numpy") as opened:
        case = json.loads(opened.metadata()["case"])
        theirs = {
            name.removeprefix("weights/"): tuple(opened.get_slice(name).get_shape())
            for name in opened.keys()  # noqa: SIM118  # no mapping
            if name.startswith("weights/")
        }
    config, head, weights = XLMConfig(**case["config"]), HEADS[case["head"]], HF["xlm"]
    params = FAMILY.params(config, head)
    table = params | {alias: params[first] for alias, first in FAMILY.ties_within(config, head).items()}
    assert weights.shapes(table, config.sizes) == {weights.full_name(name): shape for name, shape in theirs.items()}


def test_buffers_of_older_files_are_passed_over_with_a_reason():
    assert HF["xlm"].why_ignored("transformer.position_ids") == "the numbers 0, 1, ... of the positions"
    assert HF["xlm"].ours("position_ids") == ()
