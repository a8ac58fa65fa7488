"""XLNet (Yang et al., 2019, "XLNet: Generalized Autoregressive Pretraining for Language Understanding").

The one specification of the family: its configuration, its parameters, and what each of its models takes and
returns. `xl_torch/xlnet.py` and `xl_tf/xlnet.py` compute it.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from xlcore.activations import ACTIVATIONS
from xlcore.config import Config, at_least, boolean, field, one_of, optional, positive, probability, real, whole
from xlcore.heads import Family, Head, beam_params, no_params, summary_params
from xlcore.outputs import ModelOutput
from xlcore.params import ZEROS, Param, Params, layer_norm, linear, normal, within
from xlcore.shapes import Array, Contract


class XLNetConfig(Config):
    """Everything that makes one XLNet differ from another.

    Args:
        vocab_size: V. Old files call it `n_token`.
        d_model: size of the hidden states, even and a multiple of `n_head`.
        n_layer, n_head, d_inner: layers, heads, the feed-forward size.
        d_head: follows from `d_model` and `n_head`; a given one must agree.
        ff_activation: `"gelu"` is exact; weights of the authors' TensorFlow code want `"gelu_new"`.
        untie_r: known from other implementations; each layer has its own biases either way.
        attn_type: `"bi"` sees the whole text, `"uni"` no later position.
        initializer_range: deviation of the normal noise that weights start with.
        layer_norm_eps: added to variances.
        dropout: dropped share of activations, and of attention probabilities unless `dropatt` is given.
        dropatt: dropped share of attention probabilities, as in the authors' code; None for `dropout`.
        mem_len: hidden states kept of earlier segments; None or 0 for all.
        reuse_len: only that many first positions of a segment are kept; None or 0 for all.
        use_mems_eval, use_mems_train: whether a call returns memory, unless it says so itself with `use_mems`.
        bi_data: the second half of a batch holds texts that run backwards: its distances count the other way.
        clamp_len: distances beyond it count as equal; 0 or less for no limit.
        same_length: with `attn_type="uni"`, query t of a segment of T does not see the first t of the first T keys.
        summary_type: which position stands for a text: `"last"` (which wants padding on the left), `"first"`, their
            `"mean"`, or `"cls_index"`, which the classifiers read at the last position.
        summary_use_proj, summary_activation: a linear map and an activation after it; None for no activation.
        summary_first_dropout, summary_last_dropout: dropped share before and after.
        summary_proj_to_labels: known from other families; true must not change the size of the linear map.
        start_n_top, end_n_top: starts of an answer kept, and ends kept for each, without labels.
        start_major: put the ends kept for one start next to each other, as the authors' code does; else the starts
            kept for one rank of ends, as transformers does.
        soft_start: learn whether there is an answer from the expected start, as the authors' code does, and as it is
            computed without labels anyway; else from the labelled one.
        answer_dropout: dropped share there.
    """

    model_type: ClassVar[str] = "xlnet"
    aliases: ClassVar[dict[str, str]] = {
        "n_token": "vocab_size",
        "hidden_size": "d_model",
        "num_attention_heads": "n_head",
        "num_heads": "n_head",
        "num_hidden_layers": "n_layer",
        "num_layers": "n_layer",
        "head_dim": "d_head",
        "feed_forward_size": "d_inner",
    }

    vocab_size: int = field(32000, positive)
    d_model: int = field(1024, positive)
    n_layer: int = field(24, positive)
    n_head: int = field(16, positive)
    d_head: int = field(64, positive)
    d_inner: int = field(4096, positive)
    ff_activation: str = field("gelu", one_of(*ACTIVATIONS))
    untie_r: bool = field(True, boolean)
    attn_type: str = field("bi", one_of("bi", "uni"))
    initializer_range: float = field(0.02, real(0.0))
    layer_norm_eps: float = field(1e-12, real(0.0))
    dropout: float = field(0.1, probability)
    dropatt: float | None = field(None, optional(probability))
    mem_len: int | None = field(512, optional(at_least(0)))
    reuse_len: int | None = field(None, optional(at_least(0)))
    use_mems_eval: bool = field(True, boolean)
    use_mems_train: bool = field(False, boolean)
    bi_data: bool = field(False, boolean)
    clamp_len: int = field(-1, whole)
    same_length: bool = field(False, boolean)
    summary_type: str = field("last", one_of("last", "first", "mean", "cls_index"))
    summary_use_proj: bool = field(True, boolean)
    summary_activation: str | None = field("tanh", optional(one_of(*ACTIVATIONS, "")))
    summary_first_dropout: float = field(0.0, probability)
    summary_last_dropout: float = field(0.1, probability)
    summary_proj_to_labels: bool = field(False, boolean)
    start_n_top: int = field(5, positive)
    end_n_top: int = field(5, positive)
    start_major: bool = field(False, boolean)
    soft_start: bool = field(False, boolean)
    answer_dropout: float = field(0.0, probability)
    pad_token_id: int | None = field(5, optional(whole))
    bos_token_id: int | None = field(1, optional(whole))
    eos_token_id: int | None = field(2, optional(whole))

    @property
    def max_position_embeddings(self) -> int:
        """Texts have no longest length; known as -1."""
        return -1

    def complete(self, values: dict[str, Any], given: Mapping[str, Any]) -> None:
        """Derive the size of a head unless it was given."""
        super().complete(values, given)
        if "d_head" not in given and "head_dim" not in given:
            values["d_head"] = max(1, values["d_model"] // values["n_head"])

    def check(self, values: dict[str, Any]) -> None:
        """Hold the values that depend on each other against each other."""
        size, heads = values["d_model"], values["n_head"]
        self.require(size % 2 == 0, "d_model", "be even (half sines, half cosines)", size)
        self.require(size % heads == 0, "d_model", f"be a multiple of n_head={heads}", size)
        self.require(
            values["d_head"] * heads == size, "d_head", f"be d_model / n_head = {size // heads}", values["d_head"]
        )
        fits = not values["summary_proj_to_labels"] or len(values["id2label"]) == size
        self.require(fits, "summary_proj_to_labels", "be false unless num_labels equals d_model", True)


# ---------------------------------------------------------------------------------------------------- parameters


def attention(c: XLNetConfig) -> Params:
    """List the parameters of attention by content, distance and segment."""
    D, N, H, weight = c.d_model, c.n_head, c.d_head, normal(c.initializer_range)
    listed: dict[str, Param] = {}
    for part in ("query", "key", "value", "position"):
        listed |= linear(part, D, N * H, weight, bias=False)
    listed |= linear("out", N * H, D, weight, bias=False)
    listed |= {f"{what}_bias": Param((N, H), weight) for what in ("content", "position", "segment")}
    return listed | {"segment_embedding": Param((2, N, H), weight)}  # for keys of the same segment, and of another


def block(c: XLNetConfig) -> Params:
    """List the parameters of one layer."""
    weight = normal(c.initializer_range)
    return (
        within("attention", attention(c))
        | layer_norm("attention_norm", c.d_model)
        | linear("feed_forward.inner", c.d_model, c.d_inner, weight)
        | linear("feed_forward.outer", c.d_inner, c.d_model, weight)
        | layer_norm("feed_forward_norm", c.d_model)
    )


def body(c: XLNetConfig) -> Params:
    """List the parameters of the model without a head."""
    weight = normal(c.initializer_range)
    listed = {"mask_embedding": Param((1, 1, c.d_model), weight)}
    listed["embedding.weight"] = Param((c.vocab_size, c.d_model), weight)
    for number in range(c.n_layer):
        listed |= within(f"blocks.{number}", block(c))
    return listed


def word_params(c: XLNetConfig) -> Params:
    """List what the scores of words add, the table that they share with the embedding left out."""
    table = (
        {}
        if c.tie_word_embeddings
        else {"lm_head.weight": Param((c.vocab_size, c.d_model), normal(c.initializer_range))}
    )
    return table | {"lm_head.bias": Param((c.vocab_size,), ZEROS)}


def text_params(c: XLNetConfig, labels: int) -> Params:
    """List what scores of whole texts add: the summary of a text, and a row a label."""
    weight = normal(c.initializer_range)
    summary = summary_params(c.d_model, c.d_model, weight) if c.summary_use_proj else {}
    return summary | linear("score", c.d_model, labels, weight)


def ties(c: XLNetConfig) -> dict[str, str]:
    """Return the names that stand for a tensor which has another name already: second name to first."""
    return {"lm_head.weight": "embedding.weight"} if c.tie_word_embeddings else {}


# --------------------------------------------------------------------------------------------- inputs and outputs

INPUTS = Contract(
    input_ids=Array("B T", "ids"),
    attention_mask=Array("B T", "keep"),
    mems=Array("M B D", times="L"),
    perm_mask=Array("B T T", "orders"),
    target_mapping=Array("B P | B P T", "places"),
    token_type_ids=Array("B T", "types"),
    input_mask=Array("B T", "hide"),
    head_mask=Array("N | L N", "keep"),
    inputs_embeds=Array("B T D"),
)
# Examples with several texts each: what belongs to one text counts them all, G = B C.
CHOICES = Contract(
    input_ids=Array("B C T", "ids"),
    token_type_ids=Array("B C T", "types"),
    input_mask=Array("B C T", "hide"),
    attention_mask=Array("B C T", "keep"),
    mems=Array("M G D", times="L"),
    perm_mask=Array("G T T", "orders"),
    target_mapping=Array("G P | G P T", "places"),
    head_mask=Array("N | L N", "keep"),
    inputs_embeds=Array("B C T D"),
    labels=Array("B", "choices"),
)
SPANS = Contract(start_positions=Array("B 1 | B", "positions"), end_positions=Array("B 1 | B", "positions"))
BEAM = SPANS | Contract(
    is_impossible=Array("B 1 | B", "truth"), cls_index=Array("B 1 | B", "positions"), p_mask=Array("B P", "hide")
)


def with_rest(texts: str = "B", **first: Array) -> Contract:
    """List what a model returns first, and what every output has of the body, of one stream."""
    return Contract(first) | Contract(
        mems=Array(f"M {texts} D", times="L"),
        hidden_states=Array(f"{texts} T D", times="L + 1"),
        attentions=Array(f"{texts} N T S", times="L"),
    )


class XLNetModelOutput(ModelOutput):
    """What the body returns.

    With two streams `hidden_states` are content and query in turn, 2 (L + 1) of them, and `attentions` L pairs.
    """

    fields = with_rest(last_hidden_state=Array("B P D"))


class XLNetLMHeadModelOutput(ModelOutput):
    """What the language model returns."""

    fields = with_rest(loss=Array(""), logits=Array("B P V"))


class XLNetForSequenceClassificationOutput(ModelOutput):
    """What the classifier of texts returns."""

    fields = with_rest(loss=Array(""), logits=Array("B K"))


class XLNetForTokenClassificationOutput(ModelOutput):
    """What the classifier of words returns."""

    fields = with_rest(loss=Array(""), logits=Array("B P K"))


class XLNetForMultipleChoiceOutput(ModelOutput):
    """What the chooser among texts returns."""

    fields = with_rest("G", loss=Array(""), logits=Array("B C"))


class XLNetForQuestionAnsweringSimpleOutput(ModelOutput):
    """What the reader of answers returns."""

    fields = with_rest(loss=Array(""), start_logits=Array("B P"), end_logits=Array("B P"))


class XLNetForQuestionAnsweringOutput(ModelOutput):
    """What the reader of answers by beam search returns: the loss, or what it found.

    The `log_probs` are probabilities; the name is known. Entry a of the starts goes with the entries e A + a of the
    ends, e = 0, 1, ..., or with `start_major` with a E + e, where A starts and E ends for each are kept.
    """

    fields = with_rest(
        loss=Array(""),
        start_top_log_probs=Array("B A"),
        start_top_index=Array("B A", "chosen"),
        end_top_log_probs=Array("B Z", "chosen"),
        end_top_index=Array("B Z", "chosen"),
        cls_logits=Array("B"),
    )


HEADS = (
    Head("XLNetModel", "base", INPUTS, XLNetModelOutput, no_params),
    Head(
        "XLNetLMHeadModel",
        "permutation_lm",
        INPUTS | {"labels": Array("B P", "labels")},
        XLNetLMHeadModelOutput,
        word_params,
    ),
    Head(
        "XLNetForSequenceClassification",
        "sequence_classification",
        INPUTS | {"labels": Array("B K | B", "classes")},
        XLNetForSequenceClassificationOutput,
        lambda c: text_params(c, c.num_labels),
    ),
    Head(
        "XLNetForTokenClassification",
        "token_classification",
        INPUTS | {"labels": Array("B P", "tags")},
        XLNetForTokenClassificationOutput,
        lambda c: linear("classifier", c.d_model, c.num_labels, normal(c.initializer_range)),
    ),
    Head(
        "XLNetForMultipleChoice",
        "multiple_choice",
        CHOICES,
        XLNetForMultipleChoiceOutput,
        lambda c: text_params(c, 1),
    ),
    Head(
        "XLNetForQuestionAnsweringSimple",
        "question_answering",
        INPUTS | SPANS,
        XLNetForQuestionAnsweringSimpleOutput,
        lambda c: linear("spans", c.d_model, 2, normal(c.initializer_range)),
    ),
    Head(
        "XLNetForQuestionAnswering",
        "beam_question_answering",
        INPUTS | BEAM,
        XLNetForQuestionAnsweringOutput,
        lambda c: beam_params(c.d_model, normal(c.initializer_range)),
    ),
)

# What the authors and HuggingFace have released (specification, section 8): config by name, without the weights.
RELEASED: dict[str, dict[str, Any]] = {
    "xlnet-base-cased": {"n_layer": 12, "d_model": 768, "n_head": 12, "d_inner": 3072, "mem_len": None},
    "xlnet-large-cased": {"mem_len": None},
}

# Tiny models that together use every key.
TINY = {
    "vocab_size": 47, "d_model": 24, "n_head": 3, "d_inner": 40, "n_layer": 2, "mem_len": 6, "num_labels": 3,
    "start_n_top": 3, "end_n_top": 2,
}  # fmt: skip
EXAMPLES: dict[str, dict[str, Any]] = {
    "both ways": TINY,
    "one way": TINY | {"attn_type": "uni", "same_length": True, "clamp_len": 4, "summary_type": "first"},
    "texts that run backwards": TINY | {"bi_data": True, "mem_len": None, "clamp_len": 5, "summary_type": "mean"},
    "first positions kept": TINY | {"reuse_len": 3, "ff_activation": "gelu_new", "summary_use_proj": False},
    "untied": TINY | {"tie_word_embeddings": False, "ff_activation": "relu", "summary_activation": None},
    "authors' code": TINY | {"start_major": True, "soft_start": True, "summary_type": "cls_index", "dropatt": 0.0},
}

XLNET = Family(
    config=XLNetConfig,
    prefix="transformer",
    body=body,
    ties=ties,
    heads=HEADS,
    released=RELEASED,
    examples=EXAMPLES,
)
