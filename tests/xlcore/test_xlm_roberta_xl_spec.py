"""What the specification says of XLM-RoBERTa-XL: its config, its parameters, their names elsewhere, released models."""

import json
import math
import re
from pathlib import Path

import pytest
from safetensors import safe_open

from xlcore import FAMILIES, Config, ConfigError, ShapeError, XLMRobertaXLConfig
from xlcore.families.xlm_roberta_xl import EXAMPLES, RELEASED, ties
from xlcore.heads import require_past
from xlcore.maps import HF
from xlcore.maps.xlm_roberta_xl import HF_TF, plain_hf, written_hf
from xlcore.params import ONES, ZEROS, Init, normal
from xlcore.shapes import Array, Contract

GOLDEN = Path(__file__).parents[1] / "golden"
FAMILY = FAMILIES["xlm-roberta-xl"]
HEADS = {head.name: head for head in FAMILY.heads}
SMALL = {
    "vocab_size": 20, "hidden_size": 12, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 20,
    "max_position_embeddings": 16,
}  # fmt: skip


def count(name, **keys):
    """Count the numbers in the parameters of a model, and the tensors."""
    params = FAMILY.params(XLMRobertaXLConfig(**keys), HEADS[f"XLMRobertaXL{name}"])
    return sum(math.prod(param.shape) for param in params.values()), len(params)


# ---------------------------------------------------------------------------------------------------------- config


def test_the_defaults_are_those_of_the_smaller_released_model():
    config = XLMRobertaXLConfig()
    assert (config.vocab_size, config.hidden_size, config.intermediate_size) == (250880, 2560, 10240)
    assert (config.num_hidden_layers, config.num_attention_heads, config.head_dim) == (36, 32, 80)
    assert (config.num_layers, config.num_heads, config.feed_forward_size) == (36, 32, 10240)
    assert (config.bos_token_id, config.pad_token_id, config.eos_token_id) == (0, 1, 2)
    assert (config.layer_norm_eps, config.max_position_embeddings, config.most_words) == (1e-5, 514, 512)
    assert (config.is_decoder, config.add_cross_attention, config.use_cache) == (False, False, True)
    assert (config.label_dropout, config.copy(classifier_dropout=0.0).label_dropout) == (0.1, 0.0)


def test_a_published_config_comes_back():
    keys = json.loads((GOLDEN / "hf_files" / "hf_pt-xlm_roberta_xl" / "config.json").read_text())
    config = XLMRobertaXLConfig.from_dict(keys)
    written = json.loads(config.to_json_string())
    assert {key: written[key] for key in keys} == keys
    assert XLMRobertaXLConfig.from_dict(written) == config
    assert XLMRobertaXLConfig(eos_token_id=[2, 3]).eos_token_id == [2, 3]


REFUSED = {
    "heads": (
        {"hidden_size": 10, "num_attention_heads": 3},
        "hidden_size must be a multiple of num_attention_heads=3, got 10",
    ),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads must be positive, got 0"),
    "dropout": ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob must lie in [0, 1], got 1.5"),
    "no padding": ({"pad_token_id": None}, "pad_token_id must be a whole number, got None"),
    "padding below": ({"pad_token_id": -1}, "pad_token_id must be at least 0, got -1"),
    "padding outside": ({**SMALL, "pad_token_id": 20}, "pad_token_id must be below vocab_size=20, got 20"),
    "padding without place": (
        {**SMALL, "pad_token_id": 16}, "pad_token_id must be below max_position_embeddings=16, got 16",
    ),
    "no types": ({"type_vocab_size": 0}, "type_vocab_size must be positive, got 0"),
    "text": ({"hidden_size": "16"}, "hidden_size must be a whole number, got '16'"),
    "distances": (
        {"position_embedding_type": "relative"},
        "position_embedding_type must be one of 'absolute', 'relative_key', 'relative_key_query', got 'relative'",
    ),
    "one class": (
        {"num_labels": 1, "problem_type": "single_label_classification"},
        "problem_type must be another with one label, got 'single_label_classification'",
    ),
    "pruned": ({"pruned_heads": {36: [0]}}, "pruned_heads must name layers below 36, got 36"),
    "all pruned": (
        {**SMALL, "pruned_heads": {"0": [2, 0, 1]}},
        "pruned_heads[0] must name some of the 3 heads, not all, got [0, 1, 2]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_not_run_is_refused(name):
    keys, message = REFUSED[name]
    with pytest.raises(ConfigError, match=f"^XLMRobertaXLConfig: {re.escape(message)}$"):
        XLMRobertaXLConfig(**keys)


def test_an_unknown_activation_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"^XLMRobertaXLConfig: hidden_act must be one of 'gelu', .*, got 'geluu'$"):
        XLMRobertaXLConfig(hidden_act="geluu")


def test_a_decoder_may_be_made_in_any_order():
    """What reads an encoder's states is checked where a model is made, as the documents assign key by key."""
    config = XLMRobertaXLConfig(add_cross_attention=True)
    config.is_decoder = True
    assert config.is_decoder


# ------------------------------------------------------------------------------------------------------- parameters


def test_released_models_have_their_known_number_of_parameters():
    counts = {
        "Model": ((3_482_485_760, 583), (10_712_735_744, 775)),
        "ForMaskedLM": ((3_482_741_760, 586), (10_712_994_816, 778)),
        "ForCausalLM": ((3_482_741_760, 586), (10_712_994_816, 778)),
        "ForSequenceClassification": ((3_482_490_882, 585), (10_712_743_938, 777)),
        "ForMultipleChoice": ((3_482_488_321, 585), (10_712_739_841, 777)),
        "ForTokenClassification": ((3_475_934_722, 583), (10_695_962_626, 775)),
        "ForQuestionAnswering": ((3_475_934_722, 583), (10_695_962_626, 775)),
    }
    assert {f"XLMRobertaXL{name}" for name in counts} == HEADS.keys()
    for name, both in counts.items():
        assert tuple(count(name, **RELEASED[size]) for size in ("xlm-roberta-xl", "xlm-roberta-xxl")) == both, name
    crossed = {"is_decoder": True, "add_cross_attention": True, "add_pooling_layer": False}
    assert count("Model", **crossed)[0] == 4_420_200_960
    assert count("Model", **RELEASED["xlm-roberta-xxl"], **crossed)[0] == 13_918_359_552


def test_initial_values_follow_the_config():
    config = XLMRobertaXLConfig(**SMALL, initializer_range=0.3, pad_token_id=5, position_embedding_type="relative_key")
    table = FAMILY.params(config, HEADS["XLMRobertaXLForMaskedLM"])
    starts = {
        "embedding.weight": Init("normal", 0.0, 0.3, 5),
        "embedding_of_positions.weight": Init("normal", 0.0, 0.3, 5),
        "embedding_of_types.weight": normal(0.3),
        "blocks.0.attention.query.weight": normal(0.3),
        "blocks.0.attention.query.bias": ZEROS,
        "blocks.0.attention.distances.weight": normal(0.3),
        "blocks.0.feed_forward_norm.weight": ONES,
        "transform.inner.weight": normal(0.3),
        "lm_head.bias": ZEROS,
    }
    assert {name: table[name].init for name in starts} == starts
    assert table["blocks.1.attention.distances.weight"].shape == (31, 4)
    pruned = FAMILY.body(config.copy(pruned_heads={0: [1], 1: [0, 2]}))
    assert [pruned[f"blocks.{layer}.attention.out.weight"].shape for layer in (0, 1)] == [(12, 8), (12, 4)]


def test_the_table_is_tied_and_the_bias_has_two_names():
    assert ties(XLMRobertaXLConfig()) == {"lm_head.weight": "embedding.weight", "lm_head.decoder_bias": "lm_head.bias"}
    assert ties(XLMRobertaXLConfig(tie_word_embeddings=False)) == {"lm_head.decoder_bias": "lm_head.bias"}


def test_a_bias_is_known_by_either_name():
    """Where nothing is tied transformers 5 reads the second only, and older ones write but the first."""
    first, second, head = "lm_head.bias", "lm_head.decoder.bias", HEADS["XLMRobertaXLForMaskedLM"]
    assert plain_hf([first, second]) == {first: first, second: second}
    assert plain_hf([second]) == {second: first}
    assert plain_hf(["module.lm_head.layer_norm.gamma"]) == {
        "module.lm_head.layer_norm.gamma": "lm_head.layer_norm.weight"
    }
    tied, untied = XLMRobertaXLConfig(), XLMRobertaXLConfig(tie_word_embeddings=False)
    assert written_hf([first], tied, head) == {first: first}
    assert written_hf([first], untied, head) == {first: second}
    assert written_hf([first, second], untied, head) == {first: first, second: second}


def test_the_examples_use_every_key_that_changes_what_is_computed():
    unused = set(XLMRobertaXLConfig.fields) - {key for keys in EXAMPLES.values() for key in keys}
    shared = set(vars(Config))
    without = {"hidden_dropout_prob", "attention_probs_dropout_prob", "ffn_output_dropout", "initializer_range"}
    without |= {"layer_norm_eps", "bos_token_id", "eos_token_id"}
    assert unused - shared == without - shared


# ------------------------------------------------------------------------------------------------------------ names


def golden_cases():
    return sorted(GOLDEN.glob("xlm_roberta_xl-*.safetensors"))


def test_there_are_golden_cases():
    assert len(golden_cases()) == 16


@pytest.mark.parametrize("file", golden_cases(), ids=lambda file: file.stem)
def test_names_and_shapes_are_those_of_the_reference(file):
    with safe_open(file, "numpy") as opened:
        case = json.loads(opened.metadata()["case"])
        theirs = {
            name.removeprefix("weights/"): tuple(opened.get_slice(name).get_shape())
            for name in opened.keys()  # noqa: SIM118  # no mapping
            if name.startswith("weights/")
        }
    config, head, weights = XLMRobertaXLConfig(**case["config"]), HEADS[case["head"]], HF["xlm-roberta-xl"]
    params = FAMILY.params(config, head)
    table = params | {alias: params[first] for alias, first in FAMILY.ties_within(config, head).items()}
    assert weights.shapes(table, config.sizes) == {weights.full_name(name): shape for name, shape in theirs.items()}


def test_buffers_are_passed_over_with_a_reason():
    weights = HF["xlm-roberta-xl"]
    assert weights.why_ignored("roberta.embeddings.position_ids") == "the numbers 0, 1, ... of the positions"
    assert weights.ours("embeddings.position_ids") == weights.ours("embeddings.token_type_ids") == ()


def test_names_as_tensorflow_would_have_them():
    """By the rule of the specification, section 2.1."""
    layer = "roberta/encoder/layer_._3"
    for ours, theirs in {
        "embedding.weight": "roberta/embeddings/word_embeddings/weight",
        "embedding_of_positions.weight": "roberta/embeddings/position_embeddings/embeddings",
        "embedding_of_types.weight": "roberta/embeddings/token_type_embeddings/embeddings",
        "blocks.3.attention_norm.weight": f"{layer}/attention/self_attn_layer_norm/gamma",
        "blocks.3.attention.query.weight": f"{layer}/attention/self/query/kernel",
        "blocks.3.attention.distances.weight": f"{layer}/attention/self/distance_embedding/embeddings",
        "blocks.3.attention.out.bias": f"{layer}/attention/output/dense/bias",
        "blocks.3.cross_attention.value.weight": f"{layer}/crossattention/self/value/kernel",
        "blocks.3.feed_forward_norm.bias": f"{layer}/LayerNorm/beta",
        "blocks.3.feed_forward.inner.weight": f"{layer}/intermediate/dense/kernel",
        "final_norm.weight": "roberta/encoder/LayerNorm/gamma",
        "pooler.weight": "roberta/pooler/dense/kernel",
        "transform.norm.bias": "lm_head/layer_norm/beta",
        "lm_head.bias": "lm_head/bias",
        "classifier.score.weight": "classifier/out_proj/kernel",
        "classifier.weight": "classifier/kernel",
        "spans.bias": "qa_outputs/bias",
    }.items():
        name, row, _ = HF_TF.theirs(ours)
        assert (name, row.layout) == (theirs, "A B -> B A" if theirs.endswith("kernel") else "")


# -------------------------------------------------------------------------------------- contracts of lists of several


class Sized:
    """An array of which the shape is known."""

    def __init__(self, *shape):
        self.shape = shape


def test_a_list_whose_entries_are_several_arrays():
    fields = Contract(past=Array("B N S H; B N S H; B N M H; B N M H", times="L"))
    key, cross = Sized(2, 3, 5, 4), Sized(2, 3, 7, 4)
    found = fields.check("here", {"L": 2}, {"past": [(key, key, cross, cross), (key, key)]})
    assert (found["S"], found["M"]) == (5, 7)
    with pytest.raises(ShapeError, match=r"^here: past\[1\]\[2\] must have shape \[B=2, N=3, M=7, H=4\], got"):
        fields.check("here", {"L": 2}, {"past": [(key, key, cross), (key, key, key)]})


def test_what_was_read_before_may_lack_heads():
    config = XLMRobertaXLConfig(**SMALL, pruned_heads={1: [0]})
    whole, less = Sized(2, 3, 5, 4), Sized(2, 2, 5, 4)
    require_past("here", config, [(whole, whole), (less, less)])
    message = r"^here: past_key_values\[1\]: key must have shape \[B=2, N=2, R=5, H=4\], got \[2, 3, 5, 4\]$"
    with pytest.raises(ShapeError, match=message):
        require_past("here", config, [(whole, whole), (whole, whole)])
