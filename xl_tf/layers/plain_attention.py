"""Attention by content alone (Vaswani et al., 2017): its layer, and who sees what."""

from typing import Any, NamedTuple

import keras
from keras import ops

from xl_tf.checks import require_ids
from xl_tf.layers.attention import attend, by_head, relative_shift
from xl_tf.layers.basic import linear, parameter
from xlcore.errors import ConfigError
from xlcore.heads import ENCODED, SOURCE


class Seen(NamedTuple):
    """Which keys [S] queries see: every query at least one."""

    visible: Any  # [T, S] or [B, 1, 1 or T, S], true for those that are seen; None if all are
    sees: Any = None  # [B, 1 or T, 1, 1], zero for a query to which a mask leaves no key; None if each has some


class Source(NamedTuple):
    """What a decoder reads of an encoder."""

    states: Any  # [B, M, D]; None if keys and values of them are known
    visible: Any  # [B, 1, 1 or T, M], true for those that count; None if all do
    sees: Any = None  # as in `Seen`


class PlainAttention(keras.Layer):
    """Attention with several heads (Vaswani et al., 2017, section 3.2.2), of which some may be taken out.

    Args:
        kept: the heads that there are, by the numbers that they had at first.
        distances: scores keys by how far they stand behind their query, too; None if nothing does.
    """

    def __init__(
        self, config: Any, kept: list[int], distances: "DistanceScores | None" = None, *, dtype: Any = None
    ) -> None:
        super().__init__(dtype=dtype)
        D, N, H = config.hidden_size, len(kept), config.head_dim
        self.heads, self.kept, self.distances = (N, H), kept, distances
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
        self,
        hidden: Any,
        key: Any,
        value: Any,
        visible: Any,
        head_mask: Any,
        need_probabilities: bool,
        sees: Any = None,
    ) -> tuple[Any, Any]:
        """Attend from hidden [B, T, D] to keys and values.

        Args:
            visible, sees: as in `Seen`; a query that sees nothing attends to all keys alike.
            head_mask: [N], counts the heads that were there at first.
        """
        query = _by_heads(self.query(hidden), self.heads)  # [B, T, N, H]
        query = query if sees is None else query * sees
        head_mask = None if head_mask is None else ops.take(head_mask, self.kept)
        bias = None if self.distances is None else self.distances(query, key, sees)
        query, key, value = by_head(query), by_head(key), by_head(value)  # [B, N, T or S, H]
        attended, probabilities = attend(query, key, value, bias, visible, self.dropout, head_mask, need_probabilities)
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


class DistanceScores(keras.Layer):
    """Scores of keys by how far they stand behind their query, a vector for each distance.

    score(t, s) = query_t . distance_{t-s} / sqrt(H) (Shaw et al., 2018, section 3.2), and of keys, too,
    + key_s . distance_{t-s} / sqrt(H) (Huang et al., 2020, section 3.2).

    Args:
        reach: distances lie between -reach and reach. size: H. of_keys: whether keys are scored, too.
    """

    def __init__(self, reach: int, size: int, of_keys: bool, *, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.reach, self.of_keys = reach, of_keys
        self.weight = parameter(self, "weight", 2 * reach - 1, size)
        self.built = True

    def call(self, query: Any, key: Any, sees: Any = None) -> Any:
        """Score keys [B, S, N, H] for queries [B, T, N, H], which are the last ones, as [B, N, T, S].

        A query that sees nothing, [B, 1 or T, 1, 1], is zero and has scores of zero.
        """
        T, S = ops.shape(query)[1], ops.shape(key)[1]
        falling = self._rows(ops.arange(S, -T, -1))  # [S + T, H]
        scores = relative_shift(ops.einsum("btnh,rh->bntr", query, falling))[..., :S]
        if not self.of_keys:
            return scores
        rising = self._rows(ops.arange(-T, S))
        by_key = relative_shift(ops.einsum("bsnh,rh->bnsr", key, rising))[..., :T]
        by_key = ops.transpose(by_key, (0, 1, 3, 2))  # [B, N, T, S]
        return scores + (by_key if sees is None else by_key * ops.transpose(sees, (0, 2, 1, 3)))

    def _rows(self, distances: Any) -> Any:
        """Return the vectors of distances, scaled; the shift never reads the first, which may lie out of reach."""
        rows = ops.take(self.weight, ops.clip(distances + (self.reach - 1), 0, 2 * self.reach - 2), axis=0)
        return rows * self.weight.shape[1] ** -0.5


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


def seen_before(read: Any, count: Any) -> Any:
    """Return which of that many keys each query from `read` on comes behind, or is: [T, S]."""
    keys = ops.arange(count)
    return keys[read:, None] >= keys


def keys_by_mask(attention_mask: Any, causal: bool, read: Any, hidden: Any) -> Seen:
    """Return which keys [S] the queries of hidden [B, T, D] see, behind `read` others.

    A mask [B, S] hides keys from all queries, beside what `causal` hides; one [B, T, S] says all.
    """
    if attention_mask is not None and len(attention_mask.shape) == 3:
        return _seeing(ops.not_equal(attention_mask, 0)[:, None], hidden)
    unpadded = None if attention_mask is None else ops.not_equal(attention_mask, 0)[:, None, None]  # [B, 1, 1, S]
    if not causal or hidden.shape[1] == 1:
        return Seen(None) if unpadded is None else _seeing(unpadded, hidden)
    behind = seen_before(read, read + ops.shape(hidden)[1])
    return Seen(behind) if unpadded is None else _seeing(ops.logical_and(behind, unpadded), hidden)


def _seeing(visible: Any, hidden: Any) -> Seen:
    """Return which keys are seen, [B, 1, 1 or T, S], all of them where none is, and which queries see some."""
    some = ops.any(visible, axis=-1, keepdims=True)
    sees = ops.cast(ops.transpose(some, (0, 2, 1, 3)), hidden.dtype)  # [B, 1 or T, 1, 1]
    return Seen(ops.logical_or(visible, ops.logical_not(some)), sees)


def visible_keys(config: Any, keep: Any, read: int, absent: Any = None) -> Any:
    """Return which keys [S] each query from `read` on sees, [T, S] or [B, 1, 1 or T, S]; None if it sees all.

    One that comes before it, with `config.causal`, and then padding, too, unless `config.hide_padding`; none of the
    first keys that are `absent`, if any may be.
    """
    unpadded = ops.not_equal(keep, 0)[:, None, None]  # [B, 1, 1, S]
    if not config.causal:
        return unpadded
    behind = seen_before(read, ops.shape(keep)[1])
    if absent is not None:
        behind = ops.logical_and(behind, ops.arange(ops.shape(keep)[1]) >= absent)
    if config.hide_padding:
        return ops.logical_and(behind, unpadded)
    return None if behind.shape[0] == 1 and absent is None else behind


def encoded_source(
    where: str, config: Any, hidden: Any, states: Any, mask: Any, pasts: list[tuple[Any, ...]]
) -> Source | None:
    """Return what layers read of an encoder for hidden [B, T, D]: its states, or what was kept of them before.

    Raises:
        ConfigError, ShapeError: where there is nothing to read, or nothing that reads it, or for other shapes.
    """
    kept = bool(pasts) and len(pasts[0]) > 2
    if states is None and not kept:
        if mask is not None:
            raise ConfigError(f"{where}: encoder_hidden_states must be given with encoder_attention_mask, got none")
        return None
    for key in ("is_decoder", "add_cross_attention"):
        if not getattr(config, key):
            raise ConfigError(f"{where}: {key} must be true to read encoder_hidden_states, got false")
    sizes = dict(zip("BTD", hidden.shape, strict=True)) | ({"M": pasts[0][2].shape[1]} if kept else {})
    given = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
    ENCODED.check(where, sizes, given)
    if mask is None:
        return Source(states, None)
    visible = ops.not_equal(mask, 0)
    visible = visible[:, None] if len(mask.shape) == 3 else visible[:, None, None]
    return Source(states, *_seeing(visible, hidden))


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
