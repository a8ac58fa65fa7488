"""The loss of predicted words where the vocabulary is large: scores of all words never exist for all positions."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from xl_torch.checks import require_labels
from xl_torch.losses import inside, mean_over, told

ENTRIES = 1 << 24  # how many scores exist at once
FEWEST = 1 << 20  # and how many may exist however small the table is


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
    losses = entry_losses([hidden.flatten(0, -2)], [torch.where(counted, labels, -1)], [weight], [bias], [0, count])
    return mean_over(told(losses, labels, counted), counted)


def entry_losses(
    states: Sequence[Tensor],
    entries: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    borders: Sequence[int],
) -> Tensor:
    """Return what entries of several softmaxes cost each position together: the sum of -log p(entry), [P].

    Args:
        states: what each softmax reads, [P, E]. entries: for each softmax [P], below zero where it costs nothing.
        weights, biases: the table [V, E] and biases [V] of all words, or those of each softmax; behind them, if there
            are several softmaxes, those of the clusters, which the first one has, too.
        borders: where the words of each softmax begin and end, from 0 to V.
    """
    dtype = _dtype(states[0], weights[0])
    states, weights, biases = ([each.to(dtype) for each in values] for values in (states, weights, biases))
    return _losses(states, torch.stack(list(entries)), weights, biases, list(borders))


def _dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Return the dtype of products, which is that of automatic mixed precision where that is on."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


@torch.library.custom_op("xlbridge::word_losses", mutates_args=())
def _losses(
    states: Sequence[Tensor],
    entries: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    borders: Sequence[int],
) -> Tensor:
    """Return the losses, [P], for entries [C + 1, P] of C + 1 softmaxes."""
    losses = states[0].new_zeros(entries.shape[1:], dtype=torch.promote_types(states[0].dtype, torch.float32))
    for number, rows in _chunks(entries, weights, borders):
        parts = _parts(weights, borders, number), _parts(biases, borders, number)
        scores = _scores(states[number][rows], *parts).to(losses.dtype)
        picked = scores.gather(-1, entries[number, rows, None])[:, 0]
        most, total = _exponentials(scores)
        losses[rows] += (most + total.log())[:, 0] - picked
    return losses


@torch.library.custom_op("xlbridge::word_gradients", mutates_args=())
def _gradients(
    upstream: Tensor,
    states: Sequence[Tensor],
    entries: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    borders: Sequence[int],
) -> list[Tensor]:
    """Return the gradients of `_losses` by states, weights and biases, for that by its result, [P]."""
    by_states = [torch.zeros_like(each) for each in states]
    by_weights = [torch.zeros_like(each, dtype=upstream.dtype) for each in weights]
    by_biases = [torch.zeros_like(each, dtype=upstream.dtype) for each in biases]
    for number, rows in _chunks(entries, weights, borders):
        read, tables = states[number][rows], _parts(weights, borders, number)
        shares = _scores(read, tables, _parts(biases, borders, number)).to(upstream.dtype)
        shares /= _exponentials(shares)[1]
        shares[torch.arange(len(rows), device=rows.device), entries[number, rows]] -= 1
        shares *= upstream[rows, None]
        sums = _parts(by_weights, borders, number), _parts(by_biases, borders, number)
        for part, table, by_weight, by_bias in zip(_split(shares, tables), tables, *sums, strict=True):
            by_bias += part.sum(0)
            part = part.to(table.dtype)
            by_states[number][rows] += part @ table
            if by_weight.dtype == part.dtype:
                by_weight.addmm_(part.T, read)
            else:
                by_weight += part.T @ read
    rounded = [each.to(by.dtype) for by, each in zip([*weights, *biases], by_weights + by_biases, strict=True)]
    return by_states + rounded


def _chunks(entries: Tensor, weights: Sequence[Tensor], borders: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    """Yield the number of a softmax and positions that cost something in it, with scores few enough to exist at once.

    They are no more than the numbers of a table, so that a small model stays small. To know how many positions there
    are is to wait for the device once.
    """
    needed = entries >= 0
    for number, count in enumerate(needed.sum(-1).tolist()):
        tables = _parts(weights, borders, number)
        width = sum(map(len, tables))
        most = min(ENTRIES, max(FEWEST, tables[0].numel()))
        rows = needed[number].int().argsort(descending=True, stable=True)[:count]
        yield from ((number, chunk) for chunk in rows.split(max(1, most // width)) if count)


def _parts(values: Sequence[Tensor], borders: Sequence[int], number: int) -> list[Tensor]:
    """Return the rows of one softmax, as views: its words, and of the first one the clusters."""
    clusters = len(borders) > 2
    tables = values[:-1] if clusters else values
    words = tables[number] if len(tables) > 1 else tables[0][borders[number] : borders[number + 1]]
    return [words, values[-1]] if clusters and number == 0 else [words]


def _scores(states: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """Return the scores of the rows of several tables beside each other, written in place."""
    scores = states.new_empty(len(states), sum(map(len, weights)))
    for part, weight, bias in zip(_split(scores, weights), weights, biases, strict=True):
        torch.addmm(bias, states, weight.T, out=part)
    return scores


def _split(scores: Tensor, weights: list[Tensor]) -> tuple[Tensor, ...]:
    return scores.split([len(weight) for weight in weights], dim=-1)


def _exponentials(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Make of scores their exponentials, in place, over that of the largest one; return that and their sum."""
    most = scores.amax(-1, keepdim=True)
    return most, scores.sub_(most).exp_().sum(-1, keepdim=True)


@_losses.register_fake
def _losses_alike(
    states: Sequence[Tensor],
    entries: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    borders: Sequence[int],
) -> Tensor:
    return states[0].new_empty(entries.shape[1:], dtype=torch.promote_types(states[0].dtype, torch.float32))


@_gradients.register_fake
def _gradients_alike(
    upstream: Tensor,
    states: Sequence[Tensor],
    entries: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    borders: Sequence[int],
) -> list[Tensor]:
    return [torch.empty_like(each) for each in (*states, *weights, *biases)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    states, entries, weights, biases, ctx.borders = inputs
    ctx.counts = [len(states), len(weights), len(biases)]
    ctx.save_for_backward(entries, *states, *weights, *biases)


def _backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
    entries, *rest = ctx.saved_tensors
    given = _dealt(rest, ctx.counts)
    by_states, by_weights, by_biases = _dealt(
        _gradients(upstream, given[0], entries, given[1], given[2], ctx.borders), ctx.counts
    )
    return by_states, None, by_weights, by_biases, None


def _dealt(values: list[Tensor], counts: list[int]) -> list[list[Tensor]]:
    """Return a list as several ones of these lengths."""
    found, start = [], 0
    for count in counts:
        found.append(values[start : start + count])
        start += count
    return found


_losses.register_autograd(_backward, setup_context=_keep)
