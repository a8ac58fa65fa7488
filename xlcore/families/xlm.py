"""XLM (Lample and Conneau, 2019, "Cross-lingual Language Model Pretraining").

The one specification of the family: its configuration, its parameters, and what each of its models takes and
returns. `xl_torch/xlm.py` and `xl_tf/xlm.py` compute it.
"""

import warnings
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, Self

from xlcore import config as rules
from xlcore.activations import ACTIVATIONS
from xlcore.adaptive import bins
from xlcore.config import Unfit, at_least, boolean, field, one_of, optional, positive, probability, real, whole
from xlcore.errors import ConfigError
from xlcore.heads import Family, Head, beam_params, no_params, summary_params
from xlcore.outputs import ModelOutput
from xlcore.params import SINUSOID, ZEROS, Init, Param, Params, layer_norm, linear, normal, uniform, within
from xlcore.pruning import PrunableConfig, heads_by_layer
from xlcore.shapes import Array, Contract

# What config.json files of converted originals carry of their training: kept, without effect.
TRAINING = frozenset(
    """
    lang2id id2lang accumulate_gradients ae_steps amp batch_size beam_size bptt bt_src_langs bt_steps clip_grad_norm
    clm_steps command context_size data_path debug debug_slurm debug_train dump_path encoder_only epoch_size eval_bleu
    eval_only exp_id exp_name fp16 global_rank group_by_size hyp_path is_master is_slurm_job lambda_ae lambda_bt
    lambda_clm lambda_mlm lambda_mt lambda_pc langs lg_sampling_factor lgs local_rank mask_scores master_addr
    master_port max_batch_size max_epoch max_len max_vocab mem_dec_positions mem_enc_positions min_count min_len
    mlm_steps mono_dataset mono_list mono_probs mt_steps multi_gpu multi_node n_gpu_per_node n_nodes node_id optimizer
    para_dataset para_list para_probs pc_steps pred_probs ref_paths reload_checkpoint reload_emb reload_model
    same_enc_dec sample_alpha save_periodic share_inout_emb split_data split_data_accross_gpu stopping_criterion
    tokens_per_batch use_memory validation_metrics word_blank word_dropout word_keep word_mask word_mask_keep_rand
    word_pred word_rand word_shuffle world_size
    """.split()
)


def _cutoffs(value: Any) -> list[int]:
    """Take a list of ids, also as the authors' command line has it: `"8000,20000"`."""
    try:
        entries = [int(part) for part in value.split(",")] if isinstance(value, str) else value
    except ValueError:
        raise Unfit("be a list of whole numbers") from None
    return list(rules.list_of(positive)(entries))


class XLMConfig(PrunableConfig):
    """Everything that makes one XLM differ from another.

    Args:
        vocab_size: V. Old files call it `n_words`.
        emb_dim: size of the hidden states, a multiple of `n_heads`; the feed-forward size is four times that.
        n_layers, n_heads: layers, heads.
        dropout, attention_dropout: dropped share of activations, and of attention probabilities.
        gelu_activation: exact GELU, else ReLU.
        sinusoidal_embeddings: positions are fixed sines and cosines, not learned.
        causal: no position sees a later one.
        hide_padding: with `causal`, padding is hidden from attention, too; texts padded on the left want that. Else it
            is seen, as in other implementations.
        asm, asm_cutoffs, asm_div_value: scores by adaptive softmax (Grave et al., 2017), borders of its clusters, and
            by how much each is narrower than the one before.
        n_langs: languages. With more than one, and `use_lang_emb`, each has an embedding.
        max_position_embeddings: the longest text.
        embed_init_std: deviation of the normal noise that embeddings start with; None for 1.
        init_std: that of all other weights.
        init: `"authors"` starts as the authors' code does: embeddings with deviation 1 / sqrt(D), linear maps uniform
            in 1 / sqrt(inputs).
        layer_norm_eps: added to variances.
        pad_token_id, bos_token_id, eos_token_id: also known as `pad_index` and so on. Padding tells how long a text is.
        unk_index, mask_index: of use to tokenizers only.
        mask_token_id: what `generate` appends for models that are not causal.
        lang_id: the language that `generate` writes; None for none.
        is_encoder: false for the decoder of a translation model, which reads the states of an encoder.
        summary_type: which position stands for a text: `"first"`, `"last"`, their `"mean"`, or `"cls_index"`, which the
            classifiers read at the last position.
        summary_use_proj, summary_activation: a linear map and an activation after it; None for no activation.
        summary_proj_to_labels: map to as many numbers as there are labels; else to D, which must then be as many.
        summary_first_dropout, summary_last_dropout: dropped share before and after.
        start_n_top, end_n_top: starts of an answer kept, and ends kept for each, without labels.
        pruned_heads: layer -> heads that are taken out.
    """

    model_type: ClassVar[str] = "xlm"
    aliases: ClassVar[dict[str, str]] = {
        "n_words": "vocab_size",
        "hidden_size": "emb_dim",
        "num_attention_heads": "n_heads",
        "num_heads": "n_heads",
        "num_hidden_layers": "n_layers",
        "num_layers": "n_layers",
        "pad_index": "pad_token_id",
        "bos_index": "bos_token_id",
        "eos_index": "eos_token_id",
    }
    without_effect: ClassVar[frozenset[str]] = TRAINING

    vocab_size: int = field(30145, positive)
    emb_dim: int = field(2048, positive)
    n_layers: int = field(12, at_least(0))
    n_heads: int = field(16, positive)
    dropout: float = field(0.1, probability)
    attention_dropout: float = field(0.1, probability)
    gelu_activation: bool = field(True, boolean)
    sinusoidal_embeddings: bool = field(False, boolean)
    causal: bool = field(False, boolean)
    hide_padding: bool = field(False, boolean)
    asm: bool = field(False, boolean)
    asm_cutoffs: list[int] = field([], _cutoffs)
    asm_div_value: float | None = field(None, optional(real(1.0)))
    n_langs: int = field(1, positive)
    use_lang_emb: bool = field(True, boolean)
    max_position_embeddings: int = field(512, positive)
    embed_init_std: float | None = field(2048**-0.5, optional(real(0.0)))
    init_std: float = field(0.02, real(0.0))
    init: str = field("normal", one_of("normal", "authors"))
    layer_norm_eps: float = field(1e-12, real(0.0))
    pad_token_id: int | None = field(2, optional(at_least(0)))
    bos_token_id: int | None = field(0, optional(whole))
    eos_token_id: int | list[int] | None = field(1, optional(rules.one_or_several(whole)))  # type: ignore[assignment]
    unk_index: int = field(3, whole)
    mask_index: int = field(5, whole)
    mask_token_id: int | None = field(0, optional(whole))
    lang_id: int | None = field(0, optional(at_least(0)))
    is_encoder: bool = field(True, boolean)
    summary_type: str = field("first", one_of("first", "last", "mean", "cls_index"))
    summary_use_proj: bool = field(True, boolean)
    summary_activation: str | None = field(None, optional(one_of(*ACTIVATIONS, "")))
    summary_proj_to_labels: bool = field(True, boolean)
    summary_first_dropout: float = field(0.1, probability)
    summary_last_dropout: float = field(0.0, probability)
    start_n_top: int = field(5, positive)
    end_n_top: int = field(5, positive)
    pruned_heads: dict[int, list[int]] = field({}, heads_by_layer)

    @property
    def head_dim(self) -> int:
        """The size of a head."""
        return self.emb_dim // self.n_heads

    @property
    def feed_forward_size(self) -> int:
        """The size between the two maps of a feed-forward layer."""
        return 4 * self.emb_dim

    @property
    def activation(self) -> str:
        """The activation between them."""
        return "gelu" if self.gelu_activation else "relu"

    @property
    def has_languages(self) -> bool:
        """Whether there are embeddings of languages."""
        return self.n_langs > 1 and self.use_lang_emb

    def check(self, values: dict[str, Any]) -> None:
        """Hold the values that depend on each other against each other."""
        heads = values["n_heads"]
        self.require(values["emb_dim"] % heads == 0, "emb_dim", f"be a multiple of n_heads={heads}", values["emb_dim"])
        pad, size = values["pad_token_id"], values["vocab_size"]
        self.require(pad is None or pad < size, "pad_token_id", f"lie in the vocabulary of {size}", pad)
        lang, count = values["lang_id"], values["n_langs"]
        self.require(lang is None or lang < count, "lang_id", f"lie in [0, n_langs={count})", lang)
        self.require(values["causal"] or values["is_encoder"], "causal", "be true for a decoder", values["causal"])
        if values["asm"]:
            cutoffs = values["asm_cutoffs"]
            rising = bool(cutoffs) and all(low < high for low, high in pairwise([0, *cutoffs, size]))
            self.require(rising, "asm_cutoffs", f"rise from above 0 to below vocab_size={size} with asm", cutoffs)
            divisor, what = values["asm_div_value"], "be above 1 with asm, and leave the last cluster a width"
            narrow = (divisor or 0) > 1 and bins(size, values["emb_dim"], cutoffs, divisor)[-1][2] > 0
            self.require(narrow, "asm_div_value", what, divisor)
        self.check_heads(values, values["n_layers"], heads)

    def to_dict(self) -> dict[str, Any]:
        """Return every key as JSON can hold it; ids under their older names, too, which transformers 4 reads."""
        keys = super().to_dict()
        older = {"pad_index": self.pad_token_id, "bos_index": self.bos_token_id, "eos_index": self.eos_token_id}
        return keys | {key: value for key, value in older.items() if isinstance(value, int)}

    @classmethod
    def from_dict(cls, keys: Mapping[str, Any], **overrides: Any) -> Self:
        """Make a config from the keys of a config.json file; `overrides` win.

        Warns of a model that was trained on next words while its file does not say so: published ones do not.
        """
        config = super().from_dict(keys, **overrides)
        next_words = bool(keys.get("clm_steps")) and not keys.get("mlm_steps")
        next_words = next_words or "xlm-clm-" in str(keys.get("_name_or_path", ""))
        if next_words and not config.causal and "causal" not in overrides:
            what = "causal must be true for what was trained on next words, got false"
            warnings.warn(f"XLMConfig: {what}; pass causal=True, or causal=False to keep it so", stacklevel=2)
        return config


def require_summary(where: str, config: XLMConfig) -> None:
    """Raise ConfigError for a summary that is not mapped to the labels, unless D is their number."""
    if not (config.summary_use_proj and config.summary_proj_to_labels) and config.num_labels != config.emb_dim:
        what = f"num_labels must be emb_dim={config.emb_dim} where the summary is not mapped to labels"
        raise ConfigError(f"{where}: {what}, got {config.num_labels}; set summary_use_proj, summary_proj_to_labels")


# ---------------------------------------------------------------------------------------------------- parameters


def mapped(c: XLMConfig, name: str, inputs: int, outputs: int, *, bias: bool = True) -> dict[str, Param]:
    """List the parameters of a linear map."""
    if c.init == "normal":
        return linear(name, inputs, outputs, normal(c.init_std), bias=bias)
    start = uniform(inputs**-0.5)
    listed = linear(name, inputs, outputs, start, bias=bias)
    return {key: Param(each.shape, start, each.kind) for key, each in listed.items()}


def table(c: XLMConfig, rows: int, zero_row: int | None = None) -> Param:
    """List a table of embeddings, one row of which may start as zeros."""
    std = c.emb_dim**-0.5 if c.init == "authors" else (1.0 if c.embed_init_std is None else c.embed_init_std)
    return Param((rows, c.emb_dim), Init("normal", 0.0, std, zero_row))


def attention(c: XLMConfig, heads: int) -> Params:
    """List the parameters of attention with that many heads."""
    listed: dict[str, Param] = {}
    for part in ("query", "key", "value"):
        listed |= mapped(c, part, c.emb_dim, heads * c.head_dim)
    return listed | mapped(c, "out", heads * c.head_dim, c.emb_dim)


def block(c: XLMConfig, number: int) -> Params:
    """List the parameters of one layer."""
    cross = within("cross_attention", attention(c, c.n_heads)) | layer_norm("cross_attention_norm", c.emb_dim)
    return (
        within("attention", attention(c, len(c.kept_heads(number))))
        | layer_norm("attention_norm", c.emb_dim)
        | ({} if c.is_encoder else cross)
        | mapped(c, "feed_forward.inner", c.emb_dim, c.feed_forward_size)
        | mapped(c, "feed_forward.outer", c.feed_forward_size, c.emb_dim)
        | layer_norm("feed_forward_norm", c.emb_dim)
    )


def body(c: XLMConfig) -> Params:
    """List the parameters of the model without a head."""
    positions = table(c, c.max_position_embeddings)
    listed = {"embedding.weight": table(c, c.vocab_size, c.pad_token_id)}
    listed["embedding_of_positions.weight"] = Param(positions.shape, SINUSOID) if c.sinusoidal_embeddings else positions
    if c.has_languages:
        listed["embedding_of_languages.weight"] = table(c, c.n_langs)
    listed |= layer_norm("embedding_norm", c.emb_dim)
    for number in range(c.n_layers):
        listed |= within(f"blocks.{number}", block(c, number))
    return listed


def word_params(c: XLMConfig) -> Params:
    """List what the scores of words add, the table that they share with the embedding left out."""
    if not c.asm:
        own = {} if c.tie_word_embeddings else mapped(c, "lm_head", c.emb_dim, c.vocab_size, bias=False)
        plain = {name: Param(each.shape, each.init) for name, each in own.items()}
        return plain | {"lm_head.bias": Param((c.vocab_size,), ZEROS)}
    size, *tails = bins(c.vocab_size, c.emb_dim, c.asm_cutoffs, c.asm_div_value or 1)
    listed: dict[str, Param] = {}
    for part, rows in (("crit.bins.0", size[1]), ("crit.cluster", len(tails))):
        listed |= mapped(c, part, c.emb_dim, rows)
    for number, (start, end, width) in enumerate(tails, 1):
        inner = mapped(c, f"crit.bins.{number}", c.emb_dim, width, bias=False)[f"crit.bins.{number}.weight"]
        listed |= mapped(c, f"crit.bins.{number}", width, end - start, bias=False)
        listed[f"crit.bins.{number}.projection"] = Param((c.emb_dim, width), inner.init)
    return {name: Param(each.shape, each.init) for name, each in listed.items()}


def text_params(c: XLMConfig) -> dict[str, Param]:
    """List what the summary of a text adds: a number a label."""
    return summary_params(c.emb_dim, c.num_labels, normal(c.init_std)) if c.summary_use_proj else {}


def ties(c: XLMConfig) -> dict[str, str]:
    """Return the names that stand for a tensor which has another name already: second name to first."""
    return {"lm_head.weight": "embedding.weight"} if c.tie_word_embeddings and not c.asm else {}


# --------------------------------------------------------------------------------------------- inputs and outputs

INPUTS = Contract(
    input_ids=Array("B T", "ids"),
    attention_mask=Array("B T", "keep"),
    langs=Array("B T", "languages"),
    token_type_ids=Array("B T", "ids"),
    position_ids=Array("B T", "positions"),
    lengths=Array("B", "lengths"),
    head_mask=Array("N | L N", "keep"),
    inputs_embeds=Array("B T D"),
)
CHOICES = Contract(
    input_ids=Array("B C T", "ids"),
    attention_mask=Array("B C T", "keep"),
    langs=Array("B C T", "languages"),
    token_type_ids=Array("B C T", "ids"),
    position_ids=Array("B C T", "positions"),
    lengths=Array("B C", "lengths"),
    head_mask=Array("N | L N", "keep"),
    inputs_embeds=Array("B C T D"),
    labels=Array("B", "choices"),
)
SPANS = Contract(start_positions=Array("B 1 | B", "positions"), end_positions=Array("B 1 | B", "positions"))
BEAM = SPANS | Contract(
    is_impossible=Array("B 1 | B", "truth"), cls_index=Array("B 1 | B", "positions"), p_mask=Array("B P", "hide")
)


def with_rest(texts: str = "B", **first: Array) -> Contract:
    """List what a model returns first, and what every output has of the body."""
    return Contract(first) | Contract(
        hidden_states=Array(f"{texts} T D", times="L + 1"), attentions=Array(f"{texts} N T S", times="L")
    )


class XLMModelOutput(ModelOutput):
    """What the body returns."""

    fields = with_rest(last_hidden_state=Array("B T D"))


class XLMWithLMHeadModelOutput(ModelOutput):
    """What the language model returns."""

    fields = with_rest(loss=Array(""), logits=Array("B P V"))


class XLMForSequenceClassificationOutput(ModelOutput):
    """What the classifier of texts returns."""

    fields = with_rest(loss=Array(""), logits=Array("B K"))


class XLMForTokenClassificationOutput(ModelOutput):
    """What the classifier of words returns."""

    fields = with_rest(loss=Array(""), logits=Array("B P K"))


class XLMForMultipleChoiceOutput(ModelOutput):
    """What the chooser among texts returns."""

    fields = with_rest("G", loss=Array(""), logits=Array("B C"))


class XLMForQuestionAnsweringSimpleOutput(ModelOutput):
    """What the reader of answers returns."""

    fields = with_rest(loss=Array(""), start_logits=Array("B P"), end_logits=Array("B P"))


class XLMForQuestionAnsweringOutput(ModelOutput):
    """What the reader of answers by beam search returns: the loss, or what it found.

    The `log_probs` are probabilities. Start a, of A kept, goes with the ends e A + a, e = 0, 1, ...
    """

    fields = with_rest(
        loss=Array(""), start_top_log_probs=Array("B A"), start_top_index=Array("B A", "chosen"),
        end_top_log_probs=Array("B Z", "chosen"), end_top_index=Array("B Z", "chosen"), cls_logits=Array("B"),
    )  # fmt: skip


HEADS = (
    Head("XLMModel", "base", INPUTS, XLMModelOutput, no_params),
    Head(
        "XLMWithLMHeadModel", "word_lm", INPUTS | {"labels": Array("B P", "labels")}, XLMWithLMHeadModelOutput,
        word_params,
    ),
    Head(
        "XLMForSequenceClassification", "sequence_classification", INPUTS | {"labels": Array("B K | B", "classes")},
        XLMForSequenceClassificationOutput, text_params,
    ),
    Head(
        "XLMForTokenClassification", "token_classification", INPUTS | {"labels": Array("B P", "tags")},
        XLMForTokenClassificationOutput, lambda c: mapped(c, "classifier", c.emb_dim, c.num_labels),
    ),
    Head(
        "XLMForMultipleChoice", "multiple_choice", CHOICES, XLMForMultipleChoiceOutput,
        lambda c: text_params(c) | mapped(c, "score", c.num_labels, 1),
    ),
    Head(
        "XLMForQuestionAnsweringSimple", "question_answering", INPUTS | SPANS, XLMForQuestionAnsweringSimpleOutput,
        lambda c: mapped(c, "spans", c.emb_dim, 2),
    ),
    Head(
        "XLMForQuestionAnswering", "beam_question_answering", INPUTS | BEAM, XLMForQuestionAnsweringOutput,
        lambda c: beam_params(c.emb_dim, normal(c.init_std)),
    ),
)  # fmt: skip

# What the authors have released (specification, section 8): config by name, without the weights.
_PAIR = {"emb_dim": 1024, "n_layers": 6, "n_heads": 8, "n_langs": 2}
_MANY = {"vocab_size": 200000, "emb_dim": 1280, "n_layers": 16, "use_lang_emb": False}
_XNLI = {"vocab_size": 95000, "emb_dim": 1024, "n_heads": 8, "n_langs": 15}
RELEASED: dict[str, dict[str, Any]] = {
    "xlm-mlm-en-2048": {},
    "xlm-mlm-ende-1024": _PAIR | {"vocab_size": 64699},
    "xlm-mlm-enfr-1024": _PAIR | {"vocab_size": 64139},
    "xlm-mlm-enro-1024": _PAIR | {"vocab_size": 64592},
    "xlm-clm-ende-1024": _PAIR | {"vocab_size": 64699, "causal": True},
    "xlm-clm-enfr-1024": _PAIR | {"vocab_size": 64139, "causal": True},
    "xlm-mlm-xnli15-1024": _XNLI,
    "xlm-mlm-tlm-xnli15-1024": _XNLI,
    "xlm-mlm-17-1280": _MANY | {"n_langs": 17},
    "xlm-mlm-100-1280": _MANY | {"n_langs": 100},
}

# Tiny models that together use every key.
TINY = {
    "vocab_size": 47, "emb_dim": 24, "n_heads": 3, "n_layers": 2, "n_langs": 3, "max_position_embeddings": 32,
    "num_labels": 3, "start_n_top": 3, "end_n_top": 2,
}  # fmt: skip
EXAMPLES: dict[str, dict[str, Any]] = {
    "masked words": TINY,
    "next words": TINY | {"causal": True, "gelu_activation": False, "summary_type": "last", "n_langs": 1},
    "padding hidden": TINY | {"causal": True, "hide_padding": True, "summary_type": "mean", "use_lang_emb": False},
    "clusters": TINY | {"asm": True, "asm_cutoffs": [15, 30], "asm_div_value": 2.0, "sinusoidal_embeddings": True},
    "heads taken out": TINY | {"pruned_heads": {0: [1], 1: [0, 2]}, "tie_word_embeddings": False, "pad_token_id": 4},
    "decoder": TINY | {"is_encoder": False, "causal": True, "summary_type": "cls_index", "summary_activation": "tanh"},
}

XLM = Family(XLMConfig, "transformer", body, ties, HEADS, RELEASED, EXAMPLES)
