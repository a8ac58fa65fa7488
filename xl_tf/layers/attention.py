"""Attention: what all families share of it."""

from typing import Any

from keras import ops

from xl_tf.ops import lowest, precise, softmax


def distance_encodings(count: Any, size: int, clamp_len: int, like: Any) -> Any:
    """Encode the distances count - 1, ..., 1, 0 by sines and cosines (Dai et al., 2019, section 3.3) as [R, D].

    Distances beyond a positive `clamp_len` count as `clamp_len`. Computed in at least float32 whatever the dtype of
    `like`: half precision cannot tell large distances apart.
    """
    dtype = precise(like.dtype)
    distances = ops.cast(ops.arange(count - 1, -1, -1), dtype)
    if clamp_len > 0:
        distances = ops.minimum(distances, ops.cast(clamp_len, dtype))
    exponents = ops.cast(ops.arange(0, size, 2), dtype) / size
    angles = distances[:, None] * ops.power(ops.cast(10000.0, dtype), -exponents[None, :])
    return ops.cast(ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1), like.dtype)


def relative_shift(by_distance: Any) -> Any:
    """Turn scores by distance, [B, N, T, S + 1], into scores by key, [B, N, T, S]; a view, nothing is copied.

    Row t holds the distances S, ..., 0; key s of S stands at distance t + (S - T) - s. Leaving out the first T of
    all T (S + 1) entries and breaking the rest into rows of S aligns them. Keys that lie ahead of their query get
    entries of the next row, which a causal mask hides.
    """
    B, N, T, R = ops.shape(by_distance)
    S = R - 1
    return ops.reshape(ops.reshape(by_distance, (B, N, T * R))[..., T:], (B, N, T, S))


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
    """Attend with softmax((query . key + bias) / sqrt(H)) where a key is visible.

    Args:
        query: [B, T, N, H]. key, value: [B, S, N, H]. bias: [B, N, T, S], added before scaling.
        visible: [T, S] or broadcastable to the scores; every query must see a key.
        dropout: the layer that drops probabilities.
        head_mask: [N]; the probabilities of each head are multiplied by it.
        need_probabilities: return them, too.

    Returns:
        [B, T, N H], and the probabilities [B, N, T, S] or None.
    """
    B, T, N, H = ops.shape(query)
    scale = query.shape[-1] ** -0.5
    query, key, value = _by_head(query), _by_head(key), _by_head(value)  # [B, N, T or S, H]
    scores = (ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) + bias) * scale
    probabilities = softmax(ops.where(visible, scores, ops.cast(lowest(scores.dtype), scores.dtype)))
    probabilities = dropout(probabilities)
    if head_mask is not None:
        probabilities = probabilities * head_mask[:, None, None]
    context = ops.matmul(ops.cast(probabilities, value.dtype), value)
    context = ops.reshape(_by_head(context), (B, T, N * H))
    return context, probabilities if need_probabilities else None


def _by_head(values: Any) -> Any:
    """Turn [B, T, N, H] into [B, N, T, H], or back."""
    return ops.transpose(values, (0, 2, 1, 3))
