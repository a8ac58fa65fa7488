"""Attention: what all families share of it."""

import torch
import torch.nn.functional as F
from torch import Tensor


def distance_encodings(count: int, size: int, clamp_len: int, like: Tensor) -> Tensor:
    """Encode the distances count - 1, ..., 1, 0 by sines and cosines (Dai et al., 2019, section 3.3) as [R, D].

    Distances beyond a positive `clamp_len` count as `clamp_len`. Computed in at least float32 whatever the dtype of
    `like`: half precision cannot tell large distances apart.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    distances = torch.arange(count - 1, -1, -1, device=like.device).to(dtype)
    if clamp_len > 0:
        distances = distances.clamp(max=clamp_len)
    exponents = torch.arange(0, size, 2, device=like.device).to(dtype) / size
    angles = distances[:, None] * 10000.0 ** -exponents[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=-1).to(like.dtype)


def relative_shift(by_distance: Tensor) -> Tensor:
    """Turn scores by distance, [B, N, T, S + 1], into scores by key, [B, N, T, S]; a view, nothing is copied.

    Row t holds the distances S, ..., 0; key s of S stands at distance t + (S - T) - s. Leaving out the first T of
    all T (S + 1) entries and breaking the rest into rows of S aligns them. Keys that lie ahead of their query get
    entries of the next row, which a causal mask hides.
    """
    T, S = by_distance.shape[-2], by_distance.shape[-1] - 1
    return by_distance.flatten(-2)[..., T:].unflatten(-1, (T, S))


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    visible: Tensor,
    dropout: float,
    head_mask: Tensor | None,
    need_probabilities: bool,
) -> tuple[Tensor, Tensor | None]:
    """Attend with softmax((query . key + bias) / sqrt(H)) where a key is visible.

    Args:
        query: [B, T, N, H]. key, value: [B, S, N, H]. bias: [B, N, T, S], added before scaling.
        visible: [T, S] or broadcastable to the scores; every query must see a key.
        dropout: share of probabilities that is dropped.
        head_mask: [N]; the probabilities of each head are multiplied by it.
        need_probabilities: return them, too.

    Returns:
        [B, T, N H], and the probabilities [B, N, T, S] or None.
    """
    scale = query.shape[-1] ** -0.5
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)  # [B, N, T or S, H]
    if head_mask is None and not need_probabilities:
        return _fused(query, key, value, bias * scale, visible, dropout, scale), None
    scores = (torch.matmul(query, key.transpose(-1, -2)) + bias) * scale
    probabilities = torch.where(visible, scores, torch.finfo(scores.dtype).min).softmax(-1)
    probabilities = F.dropout(probabilities, dropout)
    if head_mask is not None:
        probabilities = probabilities * head_mask[:, None, None]
    context = torch.matmul(probabilities.to(value.dtype), value)
    context = context.transpose(1, 2).flatten(-2)  # [B, T, N H]
    return context, probabilities if need_probabilities else None


def _fused(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, visible: Tensor, dropout: float, scale: float
) -> Tensor:
    """Attend in one kernel that keeps no probabilities."""
    hidden = torch.where(visible, bias, torch.finfo(bias.dtype).min)
    context = F.scaled_dot_product_attention(query, key, value, hidden, dropout, scale=scale)
    return context.transpose(1, 2).flatten(-2)  # [B, T, N H]
