"""Attention: what all families share of it."""

from typing import Any, NamedTuple

from keras import ops

from xl_tf.ops import lowest, precise, softmax


class Keys(NamedTuple):
    """What queries are held against, and what they get for it."""

    key: Any  # [B, N, S, H]
    value: Any  # [B, N, S, H]
    position: Any  # [N, R, H]; [G, N, R, H] where each of G has its share of the batch


def distance_encodings(count: Any, size: int, clamp_len: int, like: Any, ahead: Any = 0) -> Any:
    """Encode the distances count - 1, ..., 1, 0 by sines and cosines (Dai et al., 2019, section 3.3) as [R, D].

    With `ahead` all are that much less: the last ones are those of keys that lie ahead of their query, below zero.
    Distances beyond a positive `clamp_len`, either way, count as `clamp_len`. Computed in at least float32 whatever
    the dtype of `like`: half precision cannot tell large distances apart.
    """
    dtype = precise(like.dtype)
    distances = ops.cast(ops.arange(count - 1, -1, -1) - ahead, dtype)
    if clamp_len > 0:
        distances = ops.clip(distances, -clamp_len, clamp_len)
    exponents = ops.cast(ops.arange(0, size, 2), dtype) / size
    angles = distances[:, None] * ops.power(ops.cast(10000.0, dtype), -exponents[None, :])
    return ops.cast(ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1), like.dtype)


def relative_shift(by_distance: Any) -> Any:
    """Turn scores by distance, [B, N, T, R], into scores by key, [B, N, T, R - 1]; a view, nothing is copied.

    Row t holds falling distances from S on, for S keys; key s stands at distance t + (S - T) - s. Leaving out the
    first T of all T R entries and breaking the rest into rows of R - 1 aligns them. Only the first S columns mean
    something. With the distances S, ..., 0 those are all, and keys that lie ahead of their query get entries of the
    next row, which a causal mask hides; with the distances down to 1 - T every key gets its own.
    """
    B, N, T, R = ops.shape(by_distance)
    return ops.reshape(ops.reshape(by_distance, (B, N, T * R))[..., T:], (B, N, T, R - 1))


def attend(
    query: Any,
    key: Any,
    value: Any,
    bias: Any,
    visible: Any,
    dropout: Any,
    head_mask: Any,
    need_probabilities: bool,
) -> tuple[Any, Any]:
    """Attend with softmax(query . key / sqrt(H) + bias) where a key is visible.

    Args:
        query: [B, N, T, H]. key, value: [B, N, S, H]. bias: [B, N, T, S] or None, as it is added.
        visible: [T, S] or broadcastable to the scores; None if every query sees every key. A query that sees no key
            must be zero where there is a bias: it then attends to all alike. Without a bias what it gets is finite,
            and means nothing.
        dropout: the layer that drops probabilities.
        head_mask: [N]; the probabilities of each head are multiplied by it.
        need_probabilities: return them, too.

    Returns:
        [B, T, N H], and the probabilities [B, N, T, S] or None.
    """
    B, N, T, H = ops.shape(query)
    scale = query.shape[-1] ** -0.5
    scores = ops.matmul(query * scale, ops.transpose(key, (0, 1, 3, 2)))
    scores = scores if bias is None else scores + bias
    probabilities = softmax(
        scores if visible is None else ops.where(visible, scores, ops.cast(lowest(scores.dtype), scores.dtype))
    )
    probabilities = dropout(probabilities)
    if head_mask is not None:
        probabilities = probabilities * head_mask[:, None, None]
    context = ops.matmul(ops.cast(probabilities, value.dtype), value)
    context = ops.reshape(by_head(context), (B, T, N * H))  # [B, T, N H]
    return context, probabilities if need_probabilities else None


def by_head(values: Any) -> Any:
    """Turn [B, T, N, H] into [B, N, T, H], or back."""
    return ops.transpose(values, (0, 2, 1, 3))
