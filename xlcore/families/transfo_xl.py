"""Transformer-XL (Dai et al., 2019, "Transformer-XL: Attentive Language Models Beyond a Fixed-Length Context").

The one specification of the family: its configuration, its parameters, and what each of its models takes and
returns. `xl_torch/transfo_xl.py` and `xl_tf/transfo_xl.py` compute it.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

from xlcore.adaptive import bins, tables
from xlcore.config import (
    Config,
    Unfit,
    boolean,
    field,
    fitted,
    list_of,
    one_of,
    optional,
    positive,
    probability,
    real,
    whole,
)
from xlcore.errors import ConfigError
from xlcore.heads import Family, Head, no_params, score_params
from xlcore.outputs import ModelOutput
from xlcore.params import ZEROS, Init, Param, Params, layer_norm, linear, normal, uniform, within
from xlcore.shapes import Array, Contract


def no_sampling(value: Any) -> int:
    """Take any number that switches the sampled softmax off: no published code can run it."""
    if whole(value) > 0:
        raise Unfit("be at most 0, the sampled softmax is not supported")
    return whole(value)


class TransfoXLConfig(Config):
    """Everything that makes one Transformer-XL differ from another.

    Args:
        vocab_size: V. Old files call it `n_token`.
        cutoffs: borders of the frequency bins of the vocabulary, without 0 and V; empty for a plain softmax.
        d_model, d_embed: sizes of the hidden states (even) and of the widest embedding.
        n_head, d_head, d_inner, n_layer: heads, their size, the feed-forward size, layers.
        div_val: bin i embeds into `d_embed // div_val**i` columns; 1 means one table for all bins.
        pre_lnorm: normalise before each sublayer instead of after it.
        mem_len: hidden states kept of earlier segments; 0 for none.
        clamp_len: distances beyond it count as equal; 0 or less for no limit.
        same_length: every position sees equally many keys (`window_rule` says how many).
        window_rule: `"hf"`: keys at a distance below `mem_len`; `"tf1"`: up to the length of the memory at hand, as the
            authors' TensorFlow code, one more. Has an effect with `same_length` only.
        initial_memory: what a call without `mems` starts from: `"zeros"`, `mem_len` of them, which are attended to, or
            `"empty"`, as the authors' PyTorch code.
        proj_share_all_but_first: makes `tie_projs` if that is not given: all bins but the first share the input
            projection with the output.
        tie_projs: for each bin, whether input and output share the projection.
        untie_r: each layer has its own content and position bias.
        dropout, dropatt: dropped share of activations and of attention probabilities.
        init, init_range, init_std, proj_init_std: how parameters start.
        layer_norm_epsilon: 1e-5; weights of the authors' TensorFlow code want 1e-12.
        adaptive, attn_type, sample_softmax: kept for files that carry them; only their defaults can be run.
        trainer_compatible: put the loss first in the tuple that `return_dict=False` gives.

    With `same_length` and no memory (`mem_len` 0) the plain causal mask holds; no position ever sees a later one.
    """

    model_type: ClassVar[str] = "transfo-xl"
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
    without_effect: ClassVar[frozenset[str]] = frozenset({"tgt_len", "ext_len", "tie_weight"})

    vocab_size: int = field(267735, positive)
    cutoffs: list[int] = field([20000, 40000, 200000], list_of(whole))
    d_model: int = field(1024, positive)
    d_embed: int = field(1024, positive)
    n_head: int = field(16, positive)
    d_head: int = field(64, positive)
    d_inner: int = field(4096, positive)
    div_val: int = field(4, positive)
    pre_lnorm: bool = field(False, boolean)
    n_layer: int = field(18, positive)
    mem_len: int = field(1600, whole)
    clamp_len: int = field(1000, whole)
    same_length: bool = field(True, boolean)
    window_rule: str = field("hf", one_of("hf", "tf1"))
    initial_memory: str = field("zeros", one_of("zeros", "empty"))
    proj_share_all_but_first: bool = field(True, boolean)
    tie_projs: list[bool] = field([False, True, True, True], list_of(boolean))
    attn_type: int = field(0, one_of(0))
    sample_softmax: int = field(-1, no_sampling)
    adaptive: bool = field(True, boolean)
    dropout: float = field(0.1, probability)
    dropatt: float = field(0.0, probability)
    untie_r: bool = field(True, boolean)
    init: str = field("normal", one_of("normal", "uniform"))
    init_range: float = field(0.01, real(0.0))
    init_std: float = field(0.02, real(0.0))
    proj_init_std: float = field(0.01, real(0.0))
    layer_norm_epsilon: float = field(1e-5, real(0.0))
    eos_token_id: int | None = field(0, optional(whole))
    trainer_compatible: bool = field(False, boolean)

    def complete(self, values: dict[str, Any], given: Mapping[str, Any]) -> None:
        """Derive `tie_projs` unless it was given; entries that a given list lacks are untied."""
        super().complete(values, given)
        count = len(values["cutoffs"]) + 1
        if "tie_projs" in given:
            ties = values["tie_projs"]
            ties = ties + [False] * (count - len(ties))
            values["tie_projs"] = ties if any(ties[count:]) else ties[:count]
        elif "proj_share_all_but_first" in given or len(values["tie_projs"]) != count:
            values["tie_projs"] = [False] + [values["proj_share_all_but_first"]] * (count - 1)

    def check(self, values: dict[str, Any]) -> None:
        """Hold the values that depend on each other against each other."""
        size, cutoffs, div_val = values["vocab_size"], values["cutoffs"], values["div_val"]
        rising = all(low < high for low, high in pairwise([0, *cutoffs, size]))
        self.require(rising, "cutoffs", f"rise strictly between 0 and vocab_size={size}", cutoffs)
        self.require(values["d_model"] % 2 == 0, "d_model", "be even (half sines, half cosines)", values["d_model"])
        widest, last = values["d_embed"], div_val ** len(cutoffs)
        self.require(
            widest >= last, "d_embed", f"leave a column for the last bin (div_val**{len(cutoffs)} = {last})", widest
        )
        ties = values["tie_projs"]
        self.require(
            not any(ties[len(cutoffs) + 1 :]), "tie_projs", f"have {len(cutoffs) + 1} entries, one a bin", ties
        )


def resized(config: TransfoXLConfig, new_num_tokens: int, layer: int = -1) -> TransfoXLConfig:
    """Return a config whose vocabulary has `new_num_tokens`, the difference made by one table.

    Args:
        config: as it is now; stays so.
        new_num_tokens: the whole vocabulary afterwards.
        layer: the table that grows or shrinks at its end, the last by default. The ids of later bins move along. With
            one table for all bins the last bin takes the difference.

    Raises:
        ConfigError: if there is no such table, or nothing would be left of it.
    """
    where, count = (
        "resize_token_embeddings",
        len(tables(config.vocab_size, config.d_embed, config.cutoffs, config.div_val)),
    )
    fitted(where, "new_num_tokens", new_num_tokens, whole)
    if not -count <= fitted(where, "layer", layer, whole) < count:
        raise ConfigError(f"{where}: layer must lie in [-{count}, {count}), got {layer}")
    difference = new_num_tokens - config.vocab_size
    number = layer % count if config.div_val > 1 else len(config.cutoffs)
    start, end, _ = bins(config.vocab_size, config.d_embed, config.cutoffs, config.div_val)[number]
    if end + difference <= start:
        raise ConfigError(f"{where}: bin {number} must keep an id, got {end - start + difference} of {end - start}")
    cutoffs = [cutoff + difference * (cutoff >= end) for cutoff in config.cutoffs]
    return config.copy(vocab_size=new_num_tokens, cutoffs=cutoffs)


def is_projected(c: TransfoXLConfig) -> bool:
    """Tell whether projections stand between embeddings and hidden states: not where both are one size."""
    return c.div_val > 1 or c.d_embed != c.d_model


def weight_init(c: TransfoXLConfig) -> Init:
    """Return the start of all weights that are no projections between embeddings and hidden states."""
    return normal(c.init_std) if c.init == "normal" else uniform(c.init_range)


# ---------------------------------------------------------------------------------------------------- parameters


def embedding(c: TransfoXLConfig) -> Params:
    """List the tables and their projections to the hidden size (none where one table has that size itself)."""
    listed: dict[str, Param] = {}
    for number, (size, width) in enumerate(tables(c.vocab_size, c.d_embed, c.cutoffs, c.div_val)):
        listed[f"bins.{number}.weight"] = Param((size, width), weight_init(c))
        if is_projected(c):
            listed[f"bins.{number}.projection"] = Param((c.d_model, width), normal(c.proj_init_std))
    return listed


def attention(c: TransfoXLConfig) -> Params:
    """List the parameters of attention by content and by distance."""
    D, inner, weight = c.d_model, c.n_head * c.d_head, weight_init(c)
    listed: dict[str, Param] = {}
    for part in ("query", "key", "value", "position"):
        listed |= linear(part, D, inner, weight, bias=False)
    return listed | linear("out", inner, D, weight, bias=False) | (biases(c) if c.untie_r else {})


def biases(c: TransfoXLConfig) -> dict[str, Param]:
    """List the two biases of the query, for content (u in the paper) and for distance (v)."""
    one = Param((c.n_head, c.d_head), weight_init(c))
    return {"content_bias": one, "position_bias": one}


def block(c: TransfoXLConfig) -> Params:
    """List the parameters of one layer."""
    weight, scale = weight_init(c), normal(c.init_std, mean=1.0)
    return (
        within("attention", attention(c))
        | layer_norm("attention_norm", c.d_model, scale)
        | linear("feed_forward.inner", c.d_model, c.d_inner, weight)
        | linear("feed_forward.outer", c.d_inner, c.d_model, weight)
        | layer_norm("feed_forward_norm", c.d_model, scale)
    )


def body(c: TransfoXLConfig) -> Params:
    """List the parameters of the model without a head."""
    listed = within("embedding", embedding(c)) | ({} if c.untie_r else biases(c))
    for number in range(c.n_layer):
        listed |= within(f"blocks.{number}", block(c))
    return listed


def softmax_params(c: TransfoXLConfig) -> Params:
    """List what the adaptive softmax adds, the tensors that it shares with the embedding left out."""
    listed: dict[str, Param] = {}
    if c.cutoffs:
        listed["cluster.weight"] = Param((len(c.cutoffs), c.d_embed), weight_init(c))
        listed["cluster.bias"] = Param((len(c.cutoffs),), ZEROS)
    for number, (size, width) in enumerate(tables(c.vocab_size, c.d_embed, c.cutoffs, c.div_val)):
        listed[f"bins.{number}.weight"] = Param((size, width), weight_init(c))
        listed[f"bins.{number}.bias"] = Param((size,), ZEROS)
    for number, (_, _, width) in enumerate(bins(c.vocab_size, c.d_embed, c.cutoffs, c.div_val)):
        if is_projected(c):
            listed[f"bins.{number}.projection"] = Param((c.d_model, width), normal(c.proj_init_std))
    return {name: param for name, param in within("crit", listed).items() if name not in ties(c)}


def ties(c: TransfoXLConfig) -> dict[str, str]:
    """Return the names that stand for a tensor which has another name already: second name to first."""
    shared = {}
    for number in range(len(c.cutoffs) + 1):
        table = number if c.div_val > 1 else 0
        if c.tie_word_embeddings and table == number:
            shared[f"crit.bins.{number}.weight"] = f"embedding.bins.{number}.weight"
        if c.tie_projs[number] and is_projected(c):
            shared[f"crit.bins.{number}.projection"] = f"embedding.bins.{table}.projection"
    if not c.untie_r:
        for number in range(c.n_layer):
            shared |= {f"blocks.{number}.attention.{bias}": bias for bias in ("content_bias", "position_bias")}
    return shared


# --------------------------------------------------------------------------------------------- inputs and outputs

INPUTS = Contract(
    input_ids=Array("B T", "ids"),
    mems=Array("M B D", times="L"),
    head_mask=Array("N | L N", "keep"),
    inputs_embeds=Array("B T D"),
)


# What every output has of the body.
REST = Contract(
    mems=Array("M B D", times="L"),
    hidden_states=Array("B T D", times="L + 1"),
    attentions=Array("B N T S", times="L"),
)


class TransfoXLModelOutput(ModelOutput):
    """What the body returns."""

    fields = Contract(last_hidden_state=Array("B T D")) | REST


class TransfoXLLMHeadModelOutput(ModelOutput):
    """What the language model returns: losses by position, and log-probabilities, which `logits` names, too."""

    fields = Contract(losses=Array("B P"), prediction_scores=Array("B T V")) | REST | Contract(loss=Array(""))
    other_names: ClassVar[dict[str, str]] = {"logits": "prediction_scores"}


class TransfoXLSequenceClassifierOutputWithPast(ModelOutput):
    """What the classifier returns."""

    fields = Contract(loss=Array(""), logits=Array("B K")) | REST


HEADS = (
    Head("TransfoXLModel", "base", INPUTS, TransfoXLModelOutput, no_params),
    Head(
        "TransfoXLLMHeadModel",
        "causal_lm",
        INPUTS | {"labels": Array("B U", "labels")},
        TransfoXLLMHeadModelOutput,
        softmax_params,
    ),
    Head(
        "TransfoXLForSequenceClassification",
        "sequence_classification",
        INPUTS | {"labels": Array("B K | B", "classes")},
        TransfoXLSequenceClassifierOutputWithPast,
        lambda c: score_params(c.d_model, c.num_labels, weight_init(c)),
    ),
)

# What the authors and HuggingFace have released (specification, section 8): config by name, without the weights.
ENWIK8 = {
    "vocab_size": 204, "cutoffs": [], "n_layer": 24, "n_head": 8, "d_head": 128, "d_inner": 3072, "div_val": 1,
    "untie_r": False, "mem_len": 3800, "layer_norm_epsilon": 1e-12, "window_rule": "tf1",
}  # fmt: skip
RELEASED: dict[str, dict[str, Any]] = {
    "transfo-xl-wt103": {},
    "tf_wt103": {"layer_norm_epsilon": 1e-12, "window_rule": "tf1"},
    "tf_enwik8": ENWIK8,
    "tf_text8": ENWIK8 | {"vocab_size": 27},
    "tf_lm1b": {
        "vocab_size": 793471, "cutoffs": [60000, 100000, 640000], "n_layer": 24, "d_model": 1280, "d_embed": 1280,
        "n_head": 16, "d_head": 80, "d_inner": 8192, "mem_len": 128, "clamp_len": -1, "proj_share_all_but_first": False,
        "layer_norm_epsilon": 1e-12, "window_rule": "tf1",
    },
}  # fmt: skip

# Tiny models that together use every key.
TINY = {
    "vocab_size": 47, "cutoffs": [10, 20, 35], "div_val": 2, "d_model": 24, "d_embed": 24, "n_head": 3, "d_head": 8,
    "d_inner": 40, "n_layer": 2, "mem_len": 6, "clamp_len": 9, "pad_token_id": 1, "num_labels": 3,
}  # fmt: skip
EXAMPLES: dict[str, dict[str, Any]] = {
    "bins": TINY,
    "one table": TINY | {"div_val": 1, "d_embed": 20},
    "plain softmax": TINY | {"cutoffs": [], "div_val": 1, "mem_len": 4},
    "pre-norm": TINY | {"pre_lnorm": True, "clamp_len": -1},
    "shared biases": TINY | {"untie_r": False, "same_length": False},
    "no memory": TINY | {"mem_len": 0},
    "untied": TINY | {"tie_word_embeddings": False, "tie_projs": [False] * 4},
    "all tied": TINY | {"tie_projs": [True] * 4, "div_val": 1, "d_embed": 20, "d_head": 6},
    "authors' TensorFlow": TINY | {"window_rule": "tf1", "layer_norm_epsilon": 1e-12},
    "authors' PyTorch": TINY | {"initial_memory": "empty", "untie_r": False},
}

TRANSFO_XL = Family(
    config=TransfoXLConfig,
    prefix="transformer",
    body=body,
    ties=ties,
    heads=HEADS,
    released=RELEASED,
    examples=EXAMPLES,
)
