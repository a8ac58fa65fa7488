"""The loss of predicted words where the vocabulary is large: scores of all words never exist for all positions."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from xl_torch.checks import require_labels
from xl_torch.losses import inside, mean_over, told

ENTRIES = 1 << 24  # how many scores exist at once, beside as many of the first chunk, for the way back
FEWEST = 1 << 20  # and how many may exist however small the table is
LEAST = 1 << 10  # words at once on the way back, however many positions there are


def word_loss(where: str, hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the mean cross entropy of words, as `entry_loss` of their scores; -100 is ignored.

    Only positions with a label cost anything: a chunk of them at a time; on the way back a block of words.

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
    return _losses(states, torch.stack(list(entries)), weights, biases, list(borders))[0]


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
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses, [P], for entries [C + 1, P] of C + 1 softmaxes, and what the way back would compute again.

    That is the logs of the sums, [C + 1, P], and the probabilities of the first chunk of positions that cost something
    in the first softmax, [K, W], which have their room anyway.
    """
    losses, totals, known = _results(states, entries, weights, biases, borders)
    losses.zero_()
    totals.zero_()
    for place, (number, rows) in enumerate(_chunks(entries, weights, borders)):
        tables, first = _parts(weights, borders, number), place == number == 0
        room = known[: len(rows)] if first else known.new_empty(len(rows), sum(map(len, tables)))
        scores = _scores(room, states[number][rows], tables, _parts(biases, borders, number))
        picked = scores.gather(-1, entries[number, rows, None])[:, 0]
        most = scores.amax(-1, keepdim=True)
        sums = scores.sub_(most).exp_().sum(-1, keepdim=True)
        total = (most + sums.log())[:, 0]
        totals[number, rows] = total
        losses[rows] += total - picked
        if first:
            scores /= sums
    return losses, totals, known


@torch.library.custom_op("xlbridge::word_gradients", mutates_args=())
def _gradients(
    upstream: Tensor,
    totals: Tensor,
    known: Tensor,
    states: Sequence[Tensor],
    entries: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    borders: Sequence[int],
) -> list[Tensor]:
    """Return the gradients of `_losses` by states, weights and biases, for that by its losses, [P].

    A block of words at a time: each row of a table is written once, as it stays, and never added to.
    """
    by_states = [torch.zeros_like(each) for each in states]
    by_weights, by_biases = ([torch.empty_like(each) for each in values] for values in (weights, biases))
    every = (weights, biases, by_weights, by_biases)
    for number, rows in enumerate(_needed(entries)):
        read, wanted, slope = states[number][rows], entries[number, rows], upstream[rows, None]
        by_read, count = torch.zeros_like(read, dtype=upstream.dtype), 0 if number else min(len(rows), len(known))
        blocks = _blocks([_parts(values, borders, number) for values in every], len(rows))
        for first, weight, bias, by_weight, by_bias in blocks:
            shares = _shares(read[count:], weight, bias, totals[number, rows[count:], None])
            shares = torch.cat([known[:count, first : first + len(weight)], shares]) if count else shares
            place = wanted - first
            here = (place >= 0) & (place < len(weight))
            shares.scatter_add_(1, place.clamp(0, len(weight) - 1)[:, None], -here[:, None].to(shares.dtype))
            shares *= slope
            by_bias.copy_(shares.sum(0))
            shares = shares.to(weight.dtype)
            by_read += shares @ weight
            torch.mm(shares.T, read, out=by_weight)
        by_states[number][rows] = by_read.to(read.dtype)
    return by_states + by_weights + by_biases


def _blocks(parts: list[list[Tensor]], count: int) -> Iterator[tuple[Any, ...]]:
    """Yield the place of a block of words in a softmax, and its rows of each of several lists of tables."""
    size, first = max(LEAST, _most(parts[0]) // max(1, count)), 0
    for tables in zip(*parts, strict=True):
        for block in zip(*(each.split(size) for each in tables), strict=True):
            yield first, *block
            first += len(block[0])


def _shares(read: Tensor, weight: Tensor, bias: Tensor, totals: Tensor) -> Tensor:
    """Return the probabilities of a block of words, given the logarithm of the sum over all, [P, 1]."""
    return torch.addmm(bias, read, weight.T).to(totals.dtype).sub_(totals).exp_()


def _needed(entries: Tensor) -> list[Tensor]:
    """Return for each softmax the positions that cost something in it, which is to wait for the device once."""
    needed = entries >= 0
    counts = needed.sum(-1).tolist()
    return [each.int().argsort(descending=True, stable=True)[:n] for each, n in zip(needed, counts, strict=True)]


def _most(tables: list[Tensor]) -> int:
    """Return how many scores may exist at once: no more than numbers of a table, so that a small model stays small."""
    return min(ENTRIES, max(FEWEST, tables[0].numel()))


def _chunks(entries: Tensor, weights: Sequence[Tensor], borders: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    """Yield the number of a softmax and positions that cost something in it, whose scores may exist at once."""
    for number, rows in enumerate(_needed(entries)):
        tables = _parts(weights, borders, number)
        width = sum(map(len, tables))
        yield from ((number, chunk) for chunk in rows.split(max(1, _most(tables) // width)) if len(rows))


def _parts(values: Sequence[Tensor], borders: Sequence[int], number: int) -> list[Tensor]:
    """Return the rows of one softmax, as views: its words, and of the first one the clusters."""
    clusters = len(borders) > 2
    tables = values[:-1] if clusters else values
    words = tables[number] if len(tables) > 1 else tables[0][borders[number] : borders[number + 1]]
    return [words, values[-1]] if clusters and number == 0 else [words]


def _scores(scores: Tensor, states: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """Write the scores of the rows of several tables beside each other, and return them."""
    parts = scores.split([len(weight) for weight in weights], dim=-1)
    for part, weight, bias in zip(parts, weights, biases, strict=True):
        if part.dtype == states.dtype:
            torch.addmm(bias, states, weight.T, out=part)
        else:
            part.copy_(torch.addmm(bias, states, weight.T))
    return scores


@_losses.register_fake
def _results(
    states: Sequence[Tensor],
    entries: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    borders: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return places for what `_losses` returns."""
    losses = states[0].new_empty(entries.shape[1:], dtype=torch.promote_types(states[0].dtype, torch.float32))
    tables = _parts(weights, borders, 0)
    width = sum(map(len, tables))
    chunk = max(1, _most(tables) // width)
    return losses, losses.new_empty(entries.shape), losses.new_empty(min(entries.shape[1], chunk), width)


@_gradients.register_fake
def _gradients_alike(
    upstream: Tensor,
    totals: Tensor,
    known: Tensor,
    states: Sequence[Tensor],
    entries: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    borders: Sequence[int],
) -> list[Tensor]:
    return [torch.empty_like(each) for each in (*states, *weights, *biases)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    states, entries, weights, biases, ctx.borders = inputs
    ctx.counts = [len(states), len(weights), len(biases)]
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:], entries, *states, *weights, *biases)


def _backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Any, ...]:
    totals, known, entries, *rest = ctx.saved_tensors
    states, weights, biases = _dealt(rest, ctx.counts)
    found = _gradients(upstream, totals, known, states, entries, weights, biases, ctx.borders)
    by_states, by_weights, by_biases = _dealt(found, ctx.counts)
    return by_states, None, by_weights, by_biases, None


def _dealt(values: list[Tensor], counts: list[int]) -> list[list[Tensor]]:
    """Return a list as several ones of these lengths."""
    found, start = [], 0
    for count in counts:
        found.append(values[start : start + count])
        start += count
    return found


_losses.register_autograd(_backward, setup_context=_keep)
