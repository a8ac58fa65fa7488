"""Attention: what all families share of it."""

import importlib.util
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Keys(NamedTuple):
    """What queries are held against, and what they get for it."""

    key: Tensor  # [B, N, S, H]
    value: Tensor  # [B, N, S, H]
    position: Tensor  # [N, R, H]; [G, N, R, H] where each of G has its share of the batch


def distance_encodings(count: int, size: int, clamp_len: int, like: Tensor, ahead: int = 0) -> Tensor:
    """Encode the distances count - 1, ..., 1, 0 by sines and cosines (Dai et al., 2019, section 3.3) as [R, D].

    With `ahead` all are that much less: the last ones are those of keys that lie ahead of their query, below zero.
    Distances beyond a positive `clamp_len`, either way, count as `clamp_len`. Computed in at least float32 whatever
    the dtype of `like`: half precision cannot tell large distances apart.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    distances = torch.arange(count - 1, -1, -1, device=like.device).to(dtype) - ahead
    if clamp_len > 0:
        distances = distances.clamp(-clamp_len, clamp_len)
    exponents = torch.arange(0, size, 2, device=like.device).to(dtype) / size
    angles = distances[:, None] * 10000.0 ** -exponents[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=-1).to(like.dtype)


def relative_shift(by_distance: Tensor) -> Tensor:
    """Turn scores by distance, [B, N, T, R], into scores by key, [B, N, T, R - 1]; a view, nothing is copied.

    Row t holds falling distances from S on, for S keys; key s stands at distance t + (S - T) - s. Leaving out the
    first T of all T R entries and breaking the rest into rows of R - 1 aligns them. Only the first S columns mean
    something. With the distances S, ..., 0 those are all, and keys that lie ahead of their query get entries of the
    next row, which a causal mask hides; with the distances down to 1 - T every key gets its own.
    """
    T, R = by_distance.shape[-2:]
    return by_distance.flatten(-2)[..., T:].unflatten(-1, (T, R - 1))


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    visible: Tensor | None,
    dropout: float,
    head_mask: Tensor | None,
    need_probabilities: bool,
) -> tuple[Tensor, Tensor | None]:
    """Attend with softmax(query . key / sqrt(H) + bias) where a key is visible.

    Args:
        query: [B, N, T, H]. key, value: [B, N, S, H]. bias: [B, N, T, S] or None, as it is added.
        visible: [T, S] or broadcastable to the scores; None if every query sees every key. A query that sees no key
            must be zero where there is a bias: it then attends to all alike. Without a bias what it gets is finite,
            and means nothing.
        dropout: share of probabilities that is dropped.
        head_mask: [N]; the probabilities of each head are multiplied by it.
        need_probabilities: return them, too.

    Returns:
        [B, T, N H], and the probabilities [B, N, T, S] or None.
    """
    scale = query.shape[-1] ** -0.5
    if head_mask is None and not need_probabilities:
        return _fused(query, key, value, bias, visible, dropout, scale), None
    scores = torch.matmul(query * scale, key.transpose(-1, -2))
    scores = scores if bias is None else scores + bias
    probabilities = (
        scores if visible is None else torch.where(visible, scores, torch.finfo(scores.dtype).min)
    ).softmax(-1)
    probabilities = F.dropout(probabilities, dropout)
    if head_mask is not None:
        probabilities = probabilities * head_mask[:, None, None]
    context = torch.matmul(probabilities.to(value.dtype), value)
    context = by_head(context).flatten(-2)  # [B, T, N H]
    return context, probabilities if need_probabilities else None


def kernel_fits(query: Tensor, head_mask: Tensor | None, need_probabilities: bool) -> bool:
    """Return whether `fused_attention` can attend from query [B, N, T, H]: on a GPU, as users run and train models.

    Not for one query, which has nothing to save; nor where gradients must be the same to the last bit in each run.
    """
    plain = head_mask is not None or need_probabilities or torch.compiler.is_compiling()
    if plain or not query.is_cuda or query.shape[2] == 1 or torch.are_deterministic_algorithms_enabled():
        return False
    return query.shape[3] <= 128 and query.dtype != torch.float64 and importlib.util.find_spec("triton") is not None


def fused(
    content: Tensor,
    located: Tensor,
    keys: Keys,
    visible: Tensor | None,
    dropout: float,
    behind: int = 0,
    by_segment: Tensor | None = None,
    crosses: Tensor | None = None,
) -> Tensor:
    """Attend with `fused_attention`, imported when it is first needed; arguments as it and `Looks` have them."""
    from xl_torch.layers.fused import Looks, fused_attention

    position = keys.position if keys.position.dim() == 4 else keys.position[None]
    looks = Looks(behind, visible, crosses, dropout)
    return fused_attention(content, located, keys.key, keys.value, position, by_segment, looks)


def by_head(values: Tensor) -> Tensor:
    """Turn [.., T, N, H] into [.., N, T, H], or back."""
    return values.transpose(-3, -2)


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    visible: Tensor | None,
    dropout: float,
    scale: float,
) -> Tensor:
    """Attend in one kernel that keeps no probabilities."""
    hidden = visible
    if bias is not None:
        hidden = bias if visible is None else torch.where(visible, bias, torch.finfo(bias.dtype).min)
    context = F.scaled_dot_product_attention(query, key, value, hidden, dropout, scale=scale)
    return by_head(context).flatten(-2)  # [B, T, N H]
