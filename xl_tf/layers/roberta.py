"""The parts of XLM-RoBERTa-XL: its layers, where its words stand, and what its heads put before scores."""

from typing import Any

import keras
from keras import ops

from xl_tf.checks import require_ids, surely_above
from xl_tf.layers.basic import FeedForward, gelu, layer_norm, linear
from xl_tf.layers.plain_attention import DistanceScores, PlainAttention
from xlcore.errors import ShapeError


class XLMRobertaXLBlock(keras.Layer):
    """One layer: attention, in some decoders attention to an encoder, and feed-forward; each normalised before it."""

    def __init__(self, config: Any, number: int, *, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        D, epsilon, kind = config.hidden_size, config.layer_norm_eps, config.position_embedding_type
        sizes = (config.max_position_embeddings, config.head_dim)
        distances = None if kind == "absolute" else DistanceScores(*sizes, kind == "relative_key_query", dtype=dtype)
        crossed = config.add_cross_attention
        self.attention_norm = layer_norm(D, epsilon, dtype=dtype)
        self.attention = PlainAttention(config, config.kept_heads(number), distances, dtype=dtype)
        self.cross_attention_norm = layer_norm(D, epsilon, dtype=dtype) if crossed else None
        self.cross_attention = PlainAttention(config, list(range(config.num_heads)), dtype=dtype) if crossed else None
        self.feed_forward_norm = layer_norm(D, epsilon, dtype=dtype)
        sizes = (D, config.intermediate_size)
        self.feed_forward = FeedForward(
            *sizes, config.ffn_output_dropout, config.hidden_act, drop_inner=False, dtype=dtype
        )
        self.dropout = keras.layers.Dropout(config.hidden_dropout_prob, dtype=dtype)
        self.built = True

    def call(
        self, hidden: Any, seen: Any, source: Any, head_mask: Any, past: Any, need_probabilities: bool
    ) -> tuple[Any, Any, Any, tuple[Any, ...]]:
        """Map hidden [B, T, D] to the same shape.

        Args:
            seen: which keys a query sees. source: what is read of an encoder. head_mask: [N].
            past: keys and values of what has been read before, and of the source; None if nothing has.

        Returns:
            Hidden states, probabilities [B, N, T, S] and those of the source [B, N, T, M] or None, and keys and values
            of all that has been read.
        """
        normed = self.attention_norm(hidden)
        key, value = self.attention.keys(normed)
        if past is not None:
            key, value = (ops.concatenate(each, axis=1) for each in ((past[0], key), (past[1], value)))  # [B, S, N, H]
        attended, probabilities = self.attention(
            normed, key, value, seen.visible, head_mask, need_probabilities=need_probabilities, sees=seen.sees
        )
        hidden = hidden + self.dropout(attended)
        kept, crossed = (key, value), None
        if source is not None:
            normed = self.cross_attention_norm(hidden)
            key, value = past[2:] if past is not None and past[2:] else self.cross_attention.keys(source.states)
            attended, crossed = self.cross_attention(
                normed, key, value, source.visible, head_mask, need_probabilities=need_probabilities, sees=source.sees
            )
            hidden = hidden + self.dropout(attended)
            kept = (*kept, key, value)
        return hidden + self.feed_forward(self.feed_forward_norm(hidden)), probabilities, crossed, kept


class HeadTransform(keras.Layer):
    """What hidden states go through before words are scored: a linear map, exact GELU, a norm."""

    def __init__(self, size: int, epsilon: float, *, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.inner = linear(size, size, dtype=dtype)
        self.norm = layer_norm(size, epsilon, dtype=dtype)
        self.built = True

    def call(self, hidden: Any) -> Any:
        """Map [..., D] to [..., D]."""
        return self.norm(gelu(self.inner(hidden)))


class TextClassifier(keras.Layer):
    """Scores of labels from the state of the first position: two linear maps, tanh between them."""

    def __init__(self, size: int, labels: int, dropout: float, *, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.inner = linear(size, size, dtype=dtype)
        self.score = linear(size, labels, dtype=dtype)
        self.dropout = keras.layers.Dropout(dropout, dtype=dtype)
        self.built = True

    def call(self, hidden: Any) -> Any:
        """Score [B, T, D] as [B, K]."""
        inner = ops.tanh(self.inner(self.dropout(hidden[:, 0])))
        return self.score(self.dropout(inner))


def word_positions(
    where: str,
    config: Any,
    read: int,
    input_ids: Any,
    inputs_embeds: Any,
    attention_mask: Any,
    position_ids: Any,
) -> Any:
    """Return the position of each word, [B, T], [1, T] or [T], behind `read` words; padding counts for none.

    None where distances count, not positions.

    Raises:
        ShapeError: for more words than there are positions for.
    """
    texts = input_ids if inputs_embeds is None else inputs_embeds
    pad, T, most = config.pad_token_id, ops.shape(texts)[1], config.max_position_embeddings
    if config.position_embedding_type != "absolute" and surely_above(read + T, most):
        raise ShapeError(f"{where}: a text must have at most {most} words, got {read + T}")
    if position_ids is not None or config.position_embedding_type != "absolute":
        return position_ids
    if input_ids is None:
        positions = ops.arange(T) + (read + 1 + pad)
    else:
        words, before = ops.cast(ops.not_equal(input_ids, pad), "int32"), read
        if attention_mask is not None and len(attention_mask.shape) == 2:
            before = ops.sum(ops.cast(ops.not_equal(attention_mask[:, :read], 0), "int32"), axis=1, keepdims=True)
        positions = (ops.cumsum(words, axis=1) + before) * words + pad
    if surely_above(read + T, config.most_words):
        also = f", for at most {config.most_words} words"
        require_ids(where, positions, most, "position_ids", also)
    return positions
