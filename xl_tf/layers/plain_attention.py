"""Attention by content alone (Vaswani et al., 2017): its layer, and who sees what."""

from typing import Any, NamedTuple

import keras
from keras import ops

from xl_tf.checks import require_ids
from xl_tf.layers.attention import attend
from xl_tf.layers.basic import linear
from xlcore.errors import ConfigError
from xlcore.heads import SOURCE


class Source(NamedTuple):
    """What a decoder reads of an encoder."""

    states: Any  # [B, M, D]
    visible: Any  # [B, 1, 1, M], true for those that count; None if all do


class PlainAttention(keras.Layer):
    """Attention with several heads (Vaswani et al., 2017, section 3.2.2), of which some may be taken out.

    Args:
        kept: the heads that there are, by the numbers that they had at first.
    """

    def __init__(self, config: Any, kept: list[int], *, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        D, N, H = config.hidden_size, len(kept), config.head_dim
        self.heads, self.kept = (N, H), kept
        self.dropout = keras.layers.Dropout(config.attention_dropout, dtype=dtype)
        self.query = linear(D, N * H, dtype=dtype)
        self.key = linear(D, N * H, dtype=dtype)
        self.value = linear(D, N * H, dtype=dtype)
        self.out = linear(N * H, D, dtype=dtype)
        self.built = True

    def keys(self, context: Any) -> tuple[Any, Any]:
        """Return keys and values [B, S, N, H] of context [B, S, D]."""
        return _by_heads(self.key(context), self.heads), _by_heads(self.value(context), self.heads)

    def call(
        self, hidden: Any, key: Any, value: Any, visible: Any, head_mask: Any, need_probabilities: bool
    ) -> tuple[Any, Any]:
        """Attend from hidden [B, T, D] to keys and values; head_mask [N] counts the heads that were there at first."""
        query = _by_heads(self.query(hidden), self.heads)  # [B, T, N, H]
        head_mask = None if head_mask is None else ops.take(head_mask, self.kept)
        attended, probabilities = attend(query, key, value, None, visible, self.dropout, head_mask, need_probabilities)
        return self.out(attended), probabilities

    def bring_forward(self, kept: list[int]) -> None:
        """Put these heads before the others, which changes nothing of what is computed."""
        order = [self.kept.index(head) for head in [*kept, *(set(self.kept) - set(kept))]]
        for part in (self.query, self.key, self.value):
            weight, bias = ops.convert_to_numpy(part.kernel), ops.convert_to_numpy(part.bias)
            part.kernel.assign(weight.reshape(-1, *self.heads)[:, order].reshape(weight.shape))
            part.bias.assign(bias.reshape(self.heads)[order].reshape(bias.shape))
        weight = ops.convert_to_numpy(self.out.kernel)
        self.out.kernel.assign(weight.reshape(*self.heads, -1)[order].reshape(weight.shape))


def _by_heads(values: Any, heads: tuple[int, int]) -> Any:
    """Turn [B, T, N H] into [B, T, N, H]."""
    B, T = ops.shape(values)[:2]
    return ops.reshape(values, (B, T, *heads))


# --------------------------------------------------------------------------------------------------- who sees what


def kept_positions(config: Any, input_ids: Any, inputs_embeds: Any, attention_mask: Any, lengths: Any) -> Any:
    """Return [B, S], zero for padding: by the mask, by the lengths, or by how many ids are not the padding id."""
    if attention_mask is not None:
        return attention_mask
    texts, pad = input_ids if inputs_embeds is None else inputs_embeds, config.pad_token_id
    B, S = ops.shape(texts)[:2]
    if lengths is None and input_ids is not None and pad is not None:
        lengths = ops.sum(ops.cast(ops.not_equal(input_ids, pad), "int32"), axis=1)
    if lengths is None:
        return ops.ones((B, S), dtype="float32")
    return ops.arange(S) < ops.cast(lengths, "int32")[:, None]


def visible_keys(config: Any, keep: Any, read: int) -> Any:
    """Return which keys [S] each query from `read` on sees, [T, S] or [B, 1, 1 or T, S]; None if it sees all.

    One that comes before it, with `config.causal`, and then padding, too, unless `config.hide_padding`.
    """
    unpadded = ops.not_equal(keep, 0)[:, None, None]  # [B, 1, 1, S]
    if not config.causal:
        return unpadded
    keys = ops.arange(ops.shape(keep)[1])
    behind = keys[read:, None] >= keys  # [T, S]
    if config.hide_padding:
        return ops.logical_and(behind, unpadded)
    return None if behind.shape[0] == 1 else behind


def source_of(where: str, config: Any, rows: Any, src_enc: Any, src_len: Any) -> Source | None:
    """Return what is read of an encoder, for texts in that many rows.

    Raises:
        ConfigError, ShapeError: where there is no decoder to read it, or for other shapes.
    """
    if src_enc is None and src_len is None:
        return None
    if config.is_encoder:
        raise ConfigError(f"{where}: is_encoder must be false to read src_enc, got true")
    given = {"src_enc": src_enc, "src_len": src_len}
    SOURCE.check(where, {"B": rows, "D": config.hidden_size}, given)
    if src_enc is None:
        raise ConfigError(f"{where}: src_enc must be given with src_len, got none")
    if src_len is None:
        return Source(src_enc, None)
    M = ops.shape(src_enc)[1]
    require_ids(where, src_len, M + 1, "src_len")
    counted = ops.arange(M) < ops.cast(src_len, "int32")[:, None]
    return Source(src_enc, counted[:, None, None])
