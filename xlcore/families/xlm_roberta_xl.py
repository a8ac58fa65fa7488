"""XLM-RoBERTa-XL (Goyal et al., 2021, "Larger-Scale Transformers for Multilingual Masked Language Modeling").

The one specification of the family: its configuration, its parameters, and what each of its models takes and
returns. `xl_torch/xlm_roberta_xl.py` and `xl_tf/xlm_roberta_xl.py` compute it.
"""

from typing import Any, ClassVar

from xlcore import config as rules
from xlcore.activations import ACTIVATIONS
from xlcore.config import at_least, boolean, field, one_of, optional, positive, probability, real, whole
from xlcore.errors import ConfigError
from xlcore.heads import Family, Head
from xlcore.outputs import ModelOutput
from xlcore.params import ZEROS, Init, Param, Params, layer_norm, linear, normal, within
from xlcore.pruning import PrunableConfig, heads_by_layer
from xlcore.shapes import Array, Contract


class XLMRobertaXLConfig(PrunableConfig):
    """Everything that makes one XLM-RoBERTa-XL differ from another.

    Args:
        vocab_size: V.
        hidden_size: D, a multiple of `num_attention_heads`.
        num_hidden_layers, num_attention_heads: layers, heads.
        intermediate_size: F, the size between the two maps of a feed-forward layer.
        hidden_act: the activation between them; the heads have their own.
        hidden_dropout_prob: dropped share of embeddings, and of what attention gives.
        attention_probs_dropout_prob: dropped share of attention probabilities.
        ffn_output_dropout: dropped share of what feed-forward layers give. The authors trained with 0.1, transformers
            drops nothing there.
        max_position_embeddings: rows of the table of positions. Words count from `pad_token_id + 1` on, so that a text
            has at most `max_position_embeddings - pad_token_id - 1` of them.
        type_vocab_size: kinds of segments.
        initializer_range: deviation of the normal noise that weights start with.
        layer_norm_eps: added to variances.
        pad_token_id, bos_token_id, eos_token_id: the first tells which positions count.
        position_embedding_type: `"absolute"`, or by the distance of query and key: `"relative_key"` (Shaw et al.,
            2018), `"relative_key_query"` (Huang et al., 2020).
        use_cache: whether a decoder returns keys and values of what it has read.
        classifier_dropout: dropped share in classifiers of texts and of words; `hidden_dropout_prob` if None.
        is_decoder: no position sees a later one.
        add_cross_attention: layers of a decoder read the states of an encoder.
        add_pooling_layer: whether the model without a head has a map of the first position's state.
        pruned_heads: layer -> heads that are taken out.
    """

    model_type: ClassVar[str] = "xlm-roberta-xl"
    aliases: ClassVar[dict[str, str]] = {
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "feed_forward_size": "intermediate_size",
    }

    vocab_size: int = field(250880, positive)
    hidden_size: int = field(2560, positive)
    num_hidden_layers: int = field(36, at_least(0))
    num_attention_heads: int = field(32, positive)
    intermediate_size: int = field(10240, positive)
    hidden_act: str = field("gelu", one_of(*ACTIVATIONS))
    hidden_dropout_prob: float = field(0.1, probability)
    attention_probs_dropout_prob: float = field(0.1, probability)
    ffn_output_dropout: float = field(0.0, probability)
    max_position_embeddings: int = field(514, positive)
    type_vocab_size: int = field(1, positive)
    initializer_range: float = field(0.02, real(0.0))
    layer_norm_eps: float = field(1e-5, real(0.0))
    pad_token_id: int = field(1, at_least(0))
    bos_token_id: int | None = field(0, optional(whole))
    eos_token_id: int | list[int] | None = field(2, optional(rules.one_or_several(whole)))  # type: ignore[assignment]
    position_embedding_type: str = field("absolute", one_of("absolute", "relative_key", "relative_key_query"))
    use_cache: bool = field(True, boolean)
    classifier_dropout: float | None = field(None, optional(probability))
    is_decoder: bool = field(False, boolean)
    add_cross_attention: bool = field(False, boolean)
    add_pooling_layer: bool = field(True, boolean)
    pruned_heads: dict[int, list[int]] = field({}, heads_by_layer)

    @property
    def head_dim(self) -> int:
        """The size of a head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def attention_dropout(self) -> float:
        """The dropped share of attention probabilities."""
        return self.attention_probs_dropout_prob

    @property
    def label_dropout(self) -> float:
        """The dropped share in classifiers of texts and of words."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    @property
    def most_words(self) -> int:
        """How many words a text has at most."""
        return self.max_position_embeddings - self.pad_token_id - 1

    def check(self, values: dict[str, Any]) -> None:
        """Hold the values that depend on each other against each other."""
        heads, size, pad = values["num_attention_heads"], values["hidden_size"], values["pad_token_id"]
        self.require(size % heads == 0, "hidden_size", f"be a multiple of num_attention_heads={heads}", size)
        for key in ("vocab_size", "max_position_embeddings"):
            self.require(pad < values[key], "pad_token_id", f"be below {key}={values[key]}", pad)
        single = values["problem_type"] == "single_label_classification" and len(values["id2label"]) == 1
        self.require(not single, "problem_type", "be another with one label", values["problem_type"])
        self.check_heads(values, values["num_hidden_layers"], heads)


def require_cross_attention(where: str, config: XLMRobertaXLConfig) -> None:
    """Raise ConfigError for layers that read an encoder's states in a model that is no decoder."""
    if config.add_cross_attention and not config.is_decoder:
        raise ConfigError(f"{where}: is_decoder must be true with add_cross_attention, got false")


# ---------------------------------------------------------------------------------------------------- parameters


def attention(c: XLMRobertaXLConfig, heads: int) -> dict[str, Param]:
    """List the parameters of attention with that many heads."""
    D, inner, std = c.hidden_size, heads * c.head_dim, normal(c.initializer_range)
    listed: dict[str, Param] = {}
    for part in ("query", "key", "value"):
        listed |= linear(part, D, inner, std)
    return listed | linear("out", inner, D, std)


def distances(c: XLMRobertaXLConfig) -> Params:
    """List the table of the distances of query and key: from P - 1 places ahead to P - 1 behind."""
    if c.position_embedding_type == "absolute":
        return {}
    return {"distances.weight": Param((2 * c.max_position_embeddings - 1, c.head_dim), normal(c.initializer_range))}


def block(c: XLMRobertaXLConfig, number: int) -> Params:
    """List the parameters of one layer."""
    D, F, std = c.hidden_size, c.intermediate_size, normal(c.initializer_range)
    cross = layer_norm("cross_attention_norm", D) | within("cross_attention", attention(c, c.num_attention_heads))
    return (
        layer_norm("attention_norm", D)
        | within("attention", attention(c, len(c.kept_heads(number))))
        | within("attention", distances(c))
        | (cross if c.add_cross_attention else {})
        | layer_norm("feed_forward_norm", D)
        | linear("feed_forward.inner", D, F, std)
        | linear("feed_forward.outer", F, D, std)
    )


def body(c: XLMRobertaXLConfig) -> Params:
    """List the parameters of the model without a head and without its pooling layer."""
    D, P, std = c.hidden_size, c.max_position_embeddings, c.initializer_range
    padded = Init("normal", 0.0, std, c.pad_token_id)
    listed = {
        "embedding.weight": Param((c.vocab_size, D), padded),
        "embedding_of_positions.weight": Param((P, D), padded),
        "embedding_of_types.weight": Param((c.type_vocab_size, D), normal(std)),
    }
    for number in range(c.num_hidden_layers):
        listed |= within(f"blocks.{number}", block(c, number))
    return listed | layer_norm("final_norm", D)


def pooler(c: XLMRobertaXLConfig) -> dict[str, Param]:
    """List the parameters of the map of the first position's state."""
    return linear("pooler", c.hidden_size, c.hidden_size, normal(c.initializer_range))


def word_params(c: XLMRobertaXLConfig) -> Params:
    """List what the scores of words add, the table that they share with the embedding left out."""
    V, D, std = c.vocab_size, c.hidden_size, normal(c.initializer_range)
    own = {} if c.tie_word_embeddings else {"lm_head.weight": Param((V, D), std)}
    mapped = linear("transform.inner", D, D, std) | layer_norm("transform.norm", D)
    return mapped | own | {"lm_head.bias": Param((V,), ZEROS)}


def text_params(c: XLMRobertaXLConfig) -> Params:
    """List the parameters of the classifier of texts: two maps."""
    D, std = c.hidden_size, normal(c.initializer_range)
    return linear("classifier.inner", D, D, std) | linear("classifier.score", D, c.num_labels, std)


def ties(c: XLMRobertaXLConfig) -> dict[str, str]:
    """Return the names that stand for a tensor which has another name already: second name to first.

    The bias of the scores has two names on disk, whether the table is tied or not.
    """
    tied = {"lm_head.weight": "embedding.weight"} if c.tie_word_embeddings else {}
    return tied | {"lm_head.decoder_bias": "lm_head.bias"}


# --------------------------------------------------------------------------------------------- inputs and outputs

INPUTS = Contract(
    input_ids=Array("B T", "ids"),
    attention_mask=Array("B T S | B S", "keep"),
    token_type_ids=Array("B T", "types"),
    position_ids=Array("T | B T", "positions"),
    head_mask=Array("N | L N", "keep"),
    inputs_embeds=Array("B T D"),
)
CHOICES = Contract(
    input_ids=Array("B C T", "ids"),
    token_type_ids=Array("B C T", "types"),
    attention_mask=Array("B C T", "keep"),
    labels=Array("B", "choices"),
    position_ids=Array("B C T", "positions"),
    head_mask=Array("N | L N", "keep"),
    inputs_embeds=Array("B C T D"),
)
WORDS = Contract(labels=Array("B P", "labels"))
SPANS = Contract(start_positions=Array("B 1 | B", "positions"), end_positions=Array("B 1 | B", "positions"))


def with_rest(texts: str = "B", **first: Array) -> Contract:
    """List what a model returns first, and what every output has of the body."""
    return Contract(first) | Contract(
        hidden_states=Array(f"{texts} T D", times="L + 1"), attentions=Array(f"{texts} N T S", times="L")
    )


PAST = Array("B N S H; B N S H; B N M H; B N M H", times="L")
CROSS = Contract(cross_attentions=Array("B N T M", times="L"))


class XLMRobertaXLModelOutput(ModelOutput):
    """What the body returns."""

    fields = (
        Contract(
            last_hidden_state=Array("B T D"), pooler_output=Array("B D"), hidden_states=Array("B T D", times="L + 1"),
            past_key_values=PAST, attentions=Array("B N T S", times="L"),
        ) | CROSS
    )  # fmt: skip


class XLMRobertaXLForCausalLMOutput(ModelOutput):
    """What the language model of next words returns."""

    fields = with_rest(loss=Array(""), logits=Array("B P V"), past_key_values=PAST) | CROSS


class XLMRobertaXLForMaskedLMOutput(ModelOutput):
    """What the language model of masked words returns."""

    fields = with_rest(loss=Array(""), logits=Array("B P V"))


class XLMRobertaXLForSequenceClassificationOutput(ModelOutput):
    """What the classifier of texts returns."""

    fields = with_rest(loss=Array(""), logits=Array("B K"))


class XLMRobertaXLForMultipleChoiceOutput(ModelOutput):
    """What the chooser among texts returns."""

    fields = with_rest("G", loss=Array(""), logits=Array("B C"))


class XLMRobertaXLForTokenClassificationOutput(ModelOutput):
    """What the classifier of words returns."""

    fields = with_rest(loss=Array(""), logits=Array("B P K"))


class XLMRobertaXLForQuestionAnsweringOutput(ModelOutput):
    """What the reader of answers returns."""

    fields = with_rest(loss=Array(""), start_logits=Array("B P"), end_logits=Array("B P"))


HEADS = (
    Head(
        "XLMRobertaXLModel", "base", INPUTS, XLMRobertaXLModelOutput,
        lambda c: pooler(c) if c.add_pooling_layer else {},
    ),
    Head("XLMRobertaXLForMaskedLM", "masked_lm", INPUTS | WORDS, XLMRobertaXLForMaskedLMOutput, word_params),
    Head("XLMRobertaXLForCausalLM", "decoder_lm", INPUTS | WORDS, XLMRobertaXLForCausalLMOutput, word_params),
    Head(
        "XLMRobertaXLForSequenceClassification", "sequence_classification",
        INPUTS | {"labels": Array("B K | B", "classes")}, XLMRobertaXLForSequenceClassificationOutput, text_params,
    ),
    Head(
        "XLMRobertaXLForTokenClassification", "token_classification", INPUTS | {"labels": Array("B P", "tags")},
        XLMRobertaXLForTokenClassificationOutput,
        lambda c: linear("classifier", c.hidden_size, c.num_labels, normal(c.initializer_range)),
    ),
    Head(
        "XLMRobertaXLForMultipleChoice", "multiple_choice", CHOICES, XLMRobertaXLForMultipleChoiceOutput,
        lambda c: pooler(c) | linear("classifier", c.hidden_size, 1, normal(c.initializer_range)),
    ),
    Head(
        "XLMRobertaXLForQuestionAnswering", "question_answering", INPUTS | SPANS,
        XLMRobertaXLForQuestionAnsweringOutput,
        lambda c: linear("spans", c.hidden_size, 2, normal(c.initializer_range)),
    ),
)  # fmt: skip

# What the authors have released (specification, section 8): config by name, without the weights.
RELEASED: dict[str, dict[str, Any]] = {
    "xlm-roberta-xl": {},
    "xlm-roberta-xxl": {
        "hidden_size": 4096, "num_hidden_layers": 48, "num_attention_heads": 32, "intermediate_size": 16384,
    },
}  # fmt: skip

# Tiny models that together use every key.
TINY = {
    "vocab_size": 47, "hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 40,
    "max_position_embeddings": 32, "type_vocab_size": 3, "num_labels": 3,
}  # fmt: skip
EXAMPLES: dict[str, dict[str, Any]] = {
    "masked words": TINY,
    "next words": TINY | {"is_decoder": True, "hidden_act": "relu", "pad_token_id": 4},
    "by distance": TINY | {"position_embedding_type": "relative_key", "pruned_heads": {0: [1], 1: [0, 2]}},
    "by distance, of keys too": TINY | {"position_embedding_type": "relative_key_query", "add_pooling_layer": False},
    "decoder": TINY | {"is_decoder": True, "add_cross_attention": True, "use_cache": False},
    "untied": TINY | {"tie_word_embeddings": False, "classifier_dropout": 0.3},
}

XLM_ROBERTA_XL = Family(XLMRobertaXLConfig, "roberta", body, ties, HEADS, RELEASED, EXAMPLES)
