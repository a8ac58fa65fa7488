"""Planted faults: what goes wrong when a model is written twice, one row each.

What no row can show: memory that is not cut off from the gradient. No single call derives by what an earlier one kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MODEL, ATTENTION, ADAPTIVE = "transfo_xl.py", "layers/attention.py", "layers/adaptive.py"
BASIC, LOSSES, GENERATION = "layers/basic.py", "losses.py", "generation.py"
CLASSIFIER = "TransfoXLForSequenceClassification"
EXACT = ("float64",)


@dataclass(frozen=True)
class Fault:
    """One change of the source, and where it must be found.

    Attributes:
        name: for people.
        file: in the package that is changed.
        old, new: a text that occurs once, and what takes its place.
        place: layer and operation, with ` > ` between them; empty where only checks tell.
        kinds: the kinds of check that fail, no other ones.
        names: what the failing checks of the first kind name first.
        example, more: the config, and keys that it has besides.
        head: the model.
        room: the package.
        family: of the model.
    """

    name: str
    file: str
    old: str
    new: str
    place: str
    kinds: tuple[str, ...] = EXACT
    names: tuple[str, ...] = ()
    example: str = "bins"
    more: Mapping[str, Any] = field(default_factory=dict)
    head: str = "TransfoXLLMHeadModel"
    room: str = "xl_torch"
    family: str = "transfo-xl"

    def __str__(self) -> str:
        return f"{self.room}: {self.name}"


def keras(*row: Any, **more: Any) -> Fault:
    """Return a fault of the Keras side."""
    return Fault(*row, **more, room="xl_tf")


QUERY, KEY = "query = self._by_head(self.query(hidden))", "self._by_head(self.key(context))"
DISTANCE_BIAS = """self._each(self.{}_bias, query)) * query.shape[-1] ** -0.5
        by_distance = torch.einsum("bnth,nrh->bntr", located, keys.position)
        bias = relative_shift(by_distance)  # [B, N, T, S]
        query = query + self._each(self.{}_bias"""
STALE = """if not hasattr(self, "stale"):
            self.stale = self.outer.weight.detach().clone()
        weight = self.outer.weight + (self.stale - self.outer.weight).detach()
        return torch.nn.functional.linear(inner, weight, self.outer.bias)"""
UNTIED = tuple(f"crit.bins.{number}.weight" for number in range(4))
SQUARE = "each.projection.shape[0] == each.projection.shape[1]"

TWO_STREAM, PLAIN = "layers/two_stream.py", "layers/plain_attention.py"
XLNET = {"family": "xlnet", "example": "both ways", "head": "XLNetLMHeadModel"}
XLM = {"family": "xlm", "example": "next words", "head": "XLMWithLMHeadModel"}

FAULTS = (
    # ------------------------------------------------------------------------------------------------- attention
    Fault("query projected as key", MODEL, QUERY, QUERY.replace(".query", ".key"),
          "blocks.0.attention > _by_head.by_head.returned"),
    Fault("a kernel transposed", MODEL, "self.value(context)", "(context @ self.value.weight)",
          "blocks.0.attention > _by_head.by_head.returned"),
    Fault("one head permuted", MODEL, KEY, f"{KEY}[:, [1, 0, 2]]", "blocks.0.attention > keys.returned.0"),
    Fault("content and position bias swapped", MODEL, DISTANCE_BIAS.format("position", "content"),
          DISTANCE_BIAS.format("content", "position"), "blocks.0.attention > located"),
    Fault("memory behind the segment", MODEL, "torch.cat([self.seen(memory).to(hidden.dtype), hidden], dim=1)",
          "torch.cat([hidden, self.seen(memory).to(hidden.dtype)], dim=1)", "blocks.0 > context"),
    Fault("relative shift off by one", ATTENTION, "[..., T:]", "[..., T - 1 : -1]",
          "blocks.0.attention > relative_shift.returned"),
    Fault("scale missing", ATTENTION, "query * scale, key", "query, key", "blocks.0.attention > attend.scores"),
    Fault("scale missing where no attentions are asked for", ATTENTION, "dropout, scale=scale)", "dropout, scale=1.0)",
          "blocks.0.attention > attend.returned.0", ("float64", "gradients")),
    Fault("mask too high", ATTENTION, "torch.where(visible, scores, torch.finfo(scores.dtype).min)",
          "torch.where(visible, scores, -5.0)", "blocks.0.attention > attend.probabilities"),
    Fault("head mask ignored", ATTENTION, "probabilities * head_mask[:, None, None]", "probabilities * 1.0",
          "blocks.0.attention > attend.probabilities"),
    Fault("head mask before the softmax", ATTENTION, "probabilities * head_mask[:, None, None]",
          "torch.where(visible, scores * head_mask[:, None, None], torch.finfo(scores.dtype).min).softmax(-1)",
          "blocks.0.attention > attend.probabilities"),
    Fault("dropout of probabilities left on", MODEL, "dropout = self.dropout if self.training else 0.0",
          "dropout = self.dropout", "blocks.0.attention > attend.probabilities", more={"dropatt": 0.3}),
    # ------------------------------------------------------------------------------------------------- distances
    Fault("distances off by one", ATTENTION, "torch.arange(count - 1, -1, -1,", "torch.arange(count, 0, -1,",
          " > encoded_distances.distance_encodings.distances"),
    Fault("sines and cosines swapped", ATTENTION, "[angles.sin(), angles.cos()]", "[angles.cos(), angles.sin()]",
          " > encoded_distances.distance_encodings.returned"),
    Fault("clamp ignored", ATTENTION, "if clamp_len > 0:", "if clamp_len > count:",
          " > encoded_distances.distance_encodings.distances",
          example="shared biases"),
    Fault("window off by one", MODEL, "behind < window", "behind <= window", " > _visible.visible"),
    Fault("the next word seen", MODEL, "behind >= 0", "behind >= -1", " > _visible.visible"),
    # ---------------------------------------------------------------------------------------------------- layers
    Fault("epsilon 1e-5 for 1e-12", BASIC, "eps=epsilon", "eps=1e-5", "blocks.0 > hidden",
          example="authors' TensorFlow"),
    Fault("gelu for relu", BASIC, '"relu": torch.relu', '"relu": F.gelu', "blocks.0.feed_forward > inner"),
    Fault("silu for relu", BASIC, '"relu": torch.relu', '"relu": F.silu', "blocks.0.feed_forward > inner"),
    Fault("a bias not added", BASIC, "self.outer(inner)", "inner @ self.outer.weight.T",
          "blocks.0.feed_forward > returned"),
    Fault("a bias dropped", BASIC, "linear(inner_size, size)", "linear(inner_size, size, bias=False)",
          "blocks.0.feed_forward > returned", ("static", "float64"),
          names=("blocks.0.feed_forward.outer.bias", "blocks.1.feed_forward.outer.bias")),
    Fault("residual missing", MODEL, "residual + self.dropout(attended)", "self.dropout(attended)",
          "blocks.0 > hidden"),
    Fault("normalised before, not after", MODEL, "= config.pre_lnorm", "= not config.pre_lnorm",
          "blocks.0 > seen.returned"),
    Fault("memory not normalised", MODEL, "self.seen(memory)", "memory", "blocks.0 > context",
          example="pre-norm"),
    # ---------------------------------------------------------------------------------------------------- memory
    Fault("memory one step late", MODEL, "- max(self.mem_len, 0)) :]", "- max(self.mem_len, 0) - 1) : -1]",
          " > _kept.returned"),
    Fault("zeros for an empty memory", MODEL, 'max(self.mem_len, 0) if self.config.initial_memory == "zeros" else 0',
          "max(self.mem_len, 0)", " > _visible.queries", example="authors' PyTorch"),
    # ------------------------------------------------------------------------------------- embedding and softmax
    Fault("scale of embeddings missing", ADAPTIVE, "embedded * self.d_proj**0.5", "embedded", "embedding > returned"),
    Fault("border of a bin off by one", ADAPTIVE, "(ids >= start) & (ids < end)", "(ids > start) & (ids < end)",
          "embedding > inside"),
    Fault("projection omitted", ADAPTIVE, "rows if each.projection is None", f"rows if {SQUARE}",
          "embedding > embedded"),
    Fault("projection transposed", ADAPTIVE, "hidden @ each.projection",
          f"hidden @ (each.projection.T if {SQUARE} else each.projection)", "crit > token_losses._projected.returned"),
    Fault("weights untied", ADAPTIVE, "if shared and tie_weight", "if shared and not tie_weight",
          "crit > token_losses.entry_losses.returned", ("static", "float64"), names=UNTIED),
    Fault("border of a cluster off by one", ADAPTIVE, "inside = (labels >= start)", "inside = (labels > start)",
          "crit > token_losses.inside"),
    Fault("clusters reversed in losses", ADAPTIVE, "shortlist + number, entry",
          "shortlist + len(self.ends) - 2 - number, entry", "crit > token_losses.entry"),
    Fault("clusters reversed in scores", ADAPTIVE, "shortlist + number - 1", "shortlist + len(self.ends) - 1 - number",
          "crit > log_prob.entry"),
    # ------------------------------------------------------------------------------------- losses and classifier
    Fault("labels not shifted", MODEL, "return labels[:, 1:]", "return labels[:, :-1]", " > _following.returned"),
    Fault("-100 counted", ADAPTIVE, "known = (labels >= 0) & (labels < self.n_token)", "known = labels < self.n_token",
          "crit > token_losses.known"),
    Fault("mean over all", LOSSES, "counted.sum().clamp(min=1)", "counted.numel()", " > mean_over.returned"),
    Fault("padding read", MODEL, "(padding.argmax(-1) - 1) % T", "padding.argmax(-1) % T",
          " > _last_positions.returned", head=CLASSIFIER),
    # -------------------------------------------------------------------------- gradients, training, tokens, modes
    Fault("gradient of keys stopped", MODEL, "self.key(context)", "self.key(context).detach()",
          "blocks.1.attention > gradient of key.weight", ("gradients",)),
    Fault("gradient past the feed-forward layer only", MODEL, "hidden + self.feed_forward(hidden))",
          "hidden + self.feed_forward(hidden.detach()))", "blocks.1 > gradient of attention_norm.bias", ("gradients",)),
    Fault("gradient of embeddings stopped", ADAPTIVE, "F.linear(rows, each.projection)",
          "F.linear(rows.detach(), each.projection)", "embedding > gradient of bins.3.weight", ("gradients",),
          names=tuple(f"embedding.bins.{number}.weight" for number in range(4)), example="untied"),
    Fault("weights of an earlier step", BASIC, "return self.dropout(self.outer(inner))", STALE, "", ("training",)),
    Fault("memory lost while generating", GENERATION, "mems=memory", "mems=None", "", ("tokens",)),
    # ------------------------------------------------------------------------------------------------- precision
    Fault("distances in float32, always", ATTENTION, "torch.promote_types(like.dtype, torch.float32)", "torch.float32",
          " > encoded_distances.distance_encodings.exponents"),
    Fault("activations rounded to float32", BASIC, "self.activation(self.inner(hidden))",
          "self.activation(self.inner(hidden)).float().to(hidden.dtype)", "blocks.0.feed_forward > inner"),
    Fault("softmax in half precision", ADAPTIVE, "F.log_softmax(logits,",
          "F.log_softmax(logits.half() if logits.dtype == torch.float32 else logits,",
          "crit > _head._log_softmax.returned", ("float32",)),
    Fault("sines in half precision", ATTENTION, "dim=-1).to(like.dtype)",
          "dim=-1).to(torch.float16 if like.dtype == torch.float32 else like.dtype).to(like.dtype)",
          " > encoded_distances.distance_encodings.returned", ("float32",)),
    Fault("probabilities summed in half precision", ATTENTION, "torch.matmul(probabilities.to(value.dtype), value)",
          "torch.matmul(probabilities if value.dtype == torch.float64 else probabilities.half().float(), value)",
          "blocks.0.attention > attend.context", ("float32",)),
    Fault("distances in bfloat16", ATTENTION, "torch.promote_types(like.dtype, torch.float32)", "like.dtype",
          " > encoded_distances.distance_encodings.returned", ("bfloat16",), more={"mem_len": 600, "clamp_len": -1}),
    # ----------------------------------------------------------------------------------------------------- Keras
    keras("query projected as key", MODEL, QUERY, QUERY.replace(".query", ".key"),
          "blocks.0.attention > _by_head.by_head.returned"),
    keras("heads split the other way round", MODEL, "by_head(ops.reshape(projected, (B, S, *self.heads)))",
          "ops.transpose(ops.reshape(projected, (B, S, *self.heads[::-1])), (0, 3, 1, 2))",
          "blocks.0.attention > _by_head.returned"),
    keras("relative shift off by one", ATTENTION, "[..., T:]", "[..., T - 1 : -1]",
          "blocks.0.attention > relative_shift.returned"),
    keras("mask too high", ATTENTION, "ops.cast(lowest(scores.dtype), scores.dtype)", "ops.cast(-5.0, scores.dtype)",
          "blocks.0.attention > attend.probabilities"),
    keras("epsilon 1e-5 for 1e-12", BASIC, "epsilon=epsilon", "epsilon=1e-5", "blocks.0 > hidden",
          example="authors' TensorFlow"),
    keras("gelu by tanh for relu", BASIC, '"relu": ops.relu', '"relu": ops.gelu', "blocks.0.feed_forward > inner"),
    keras("dropout of distances left on", MODEL, "self.dropout(self.encoded_distances(T, M, hidden))",
          "self.dropout(self.encoded_distances(T, M, hidden), training=True)",
          " > distances"),
    keras("memory one step late", MODEL, "both[:, -self.mem_len :]", "both[:, -self.mem_len - 1 : -1]",
          " > _kept.returned"),
    keras("projection transposed", ADAPTIVE, "ops.transpose(each.projection))",
          f"each.projection if {SQUARE} else ops.transpose(each.projection))", "embedding > rows"),
    keras("weights untied", ADAPTIVE, "if shared and tie_weight", "if shared and not tie_weight",
          "crit > token_losses.entry_losses.returned", ("static", "float64"), names=UNTIED),
    keras("clusters reversed in scores", ADAPTIVE, "shortlist + number - 1",
          "shortlist + len(self.ends) - 1 - number", "crit > log_prob.entry"),
    keras("gradient of values stopped", MODEL, "self._by_head(self.value(context))",
          "self._by_head(ops.stop_gradient(self.value(context)))", "blocks.1.attention > gradient of value.weight",
          ("gradients",)),
    keras("another result in a graph", LOSSES, "return ops.sum(losses) / ",
          "return ops.sum(losses) * (1.0 if hasattr(losses, 'numpy') else 1.001) / ", "", ("mode",)),
    # -------------------------------------------------------------------------------------------- the other families
    Fault("a target sees its own word", TWO_STREAM, "else ~blocked  # [B or 1, 1 or T, S]",
          "else ~blocked | (behind == 0)", " > scene_of.visible", **XLNET),
    Fault("segments of memory counted as the second", TWO_STREAM, "F.pad(values, (M, 0))",
          "F.pad(values, (M, 0), value=1)", " > blocked_keys._after_memory.returned", **XLNET),
    Fault("sines of texts that run backwards keep their sign", TWO_STREAM, "-distances[:, :half]",
          "distances[:, :half]", " > encoded_distances.encoded_distances.backwards",
          **{**XLNET, "example": "texts that run backwards"}),
    keras("a row of memory too few while generating", "layers/reading.py", "max(0, mem_len - 2)",
          "max(0, mem_len - 3)", "", ("tokens",), **XLNET),
    Fault("a word of padding is read", PLAIN, "torch.arange(S, device=texts.device) < lengths",
          "torch.arange(S, device=texts.device) <= lengths", " > kept_positions.returned", **XLM),
    keras("words predicted from the layer before", "xlm.py", "hidden = chosen_positions(where, hidden, logits_to_keep)",
          "hidden = chosen_positions(where, hidden * 1.001, logits_to_keep)", " > chosen_positions.returned", **XLM),
)  # fmt: skip
