"""The loss of predicted words where the vocabulary is large: scores of all words never exist for all positions."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xl_torch.checks import require_labels
from xl_torch.losses import inside, mean_over, told

ENTRIES = 1 << 24  # how many scores exist at once


def word_loss(where: str, hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the mean cross entropy of words, as `entry_loss` of their scores; -100 is ignored.

    Only positions with a label cost anything, a chunk of them at a time, in the way back again.

    Args:
        where: the model, for errors.
        hidden: [..., D]. labels: [...].
        weight: [V, D] and bias: [V], the scores of words.

    Raises:
        ShapeError: for labels that are neither words nor -100, where looking costs no wait; elsewhere it is NaN.
    """
    count = weight.shape[0]
    require_labels(where, labels, count)
    labels = labels.long().flatten()
    counted = inside(labels, count)
    hidden, weight, bias = _cast(hidden.flatten(0, -2), weight, bias)
    losses = _losses(hidden, torch.where(counted, labels, -1), weight, bias)
    return mean_over(told(losses, labels, counted), counted)


def _cast(hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return all in one dtype, which is that of automatic mixed precision where that is on."""
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    return hidden.to(dtype), weight.to(dtype), bias.to(dtype)


@torch.library.custom_op("xlbridge::word_losses", mutates_args=())
def _losses(hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return -log p(label), [P], for hidden [P, D] and labels [P]; zero for labels below zero."""
    losses = hidden.new_zeros(labels.shape, dtype=torch.promote_types(hidden.dtype, torch.float32))
    for rows in _chunks(labels, weight):
        scores = F.linear(hidden[rows], weight, bias).to(losses.dtype)
        picked = scores.gather(-1, labels[rows, None])[:, 0]
        losses[rows] = scores.logsumexp(-1) - picked
    return losses


@torch.library.custom_op("xlbridge::word_gradients", mutates_args=())
def _gradients(
    upstream: Tensor, hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `_losses` by hidden states, weight and bias, for that by its result, [P]."""
    by_hidden, by_weight = torch.zeros_like(hidden), torch.zeros_like(weight, dtype=upstream.dtype)
    by_bias = torch.zeros_like(bias, dtype=upstream.dtype)
    for rows in _chunks(labels, weight):
        shares = F.linear(hidden[rows], weight, bias).to(upstream.dtype).softmax(-1)
        shares[torch.arange(len(rows), device=rows.device), labels[rows]] -= 1
        shares *= upstream[rows, None]
        by_bias += shares.sum(0)
        shares, states = shares.to(weight.dtype), hidden[rows]
        by_hidden[rows] = shares @ weight
        if by_weight.dtype == weight.dtype:
            by_weight.addmm_(shares.T, states)
        else:
            by_weight += shares.T @ states
    return by_hidden, by_weight.to(weight.dtype), by_bias.to(bias.dtype)


def _chunks(labels: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """Return the positions with a label, in parts whose scores are few enough to exist at once."""
    return (labels >= 0).nonzero()[:, 0].split(max(1, ENTRIES // weight.shape[0]))


@_losses.register_fake
def _losses_alike(hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return hidden.new_empty(labels.shape, dtype=torch.promote_types(hidden.dtype, torch.float32))


@_gradients.register_fake
def _gradients_alike(
    upstream: Tensor, hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(hidden), torch.empty_like(weight), torch.empty_like(bias)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    hidden, labels, weight, bias = ctx.saved_tensors
    by_hidden, by_weight, by_bias = _gradients(upstream, hidden, labels, weight, bias)
    return by_hidden, None, by_weight, by_bias


_losses.register_autograd(_backward, setup_context=_keep)
