"""Permutation language modelling: which tokens are predicted, in which order, and who may see whom.

As the authors' code does it (Yang et al., 2019, sections 2.2 to 2.5). Positions hold true tokens, also those to be
predicted: the query stream of the model does not see what it predicts, because `perm_mask` says so. Axes as everywhere,
with T the positions of a window, which here is two halves, each with an order of its own.
"""

from typing import Any

import numpy as np

from xlcore.errors import ShapeError
from xlcore.shapes import IGNORED_LABEL

Array = np.ndarray[Any, Any]

# A span has 1 to 5 tokens, n of them with a probability proportional to 1/n: the shares of up to 1, 2, 3 and 4.
SPAN_SHARES = np.cumsum(1 / np.arange(1, 5)) / np.sum(1 / np.arange(1, 6))


def choose_targets(
    word_starts: Array, goal: int | None, rng: np.random.Generator, alpha: int = 6, beta: int = 1
) -> Array:
    """Choose spans of tokens to predict in each row, aligned with the starts of words.

    A span of n tokens stands in a context of about n `alpha` / `beta` more, drawn before and after it; it begins at the
    first start of a word after what stands before it, and may end within one.

    Args:
        word_starts: [B, T], true where a token begins a word.
        goal: tokens to choose in each row, exactly; what spans leave open is chosen one by one, anywhere. None for as
            many as the spans are, about one in seven.
        rng: drawn from in this order: length and place of T spans a row, of which few are used, and T numbers a row
            that decide which single tokens are chosen (not without a goal).
        alpha, beta: the share of context to span.

    Returns:
        [B, T], true where a token is chosen.

    Raises:
        ShapeError: if rows are shorter than the goal.
    """
    rows, length = word_starts.shape
    if goal is not None and goal > length:
        raise ShapeError(f"choose_targets: goal must be at most the {length} tokens of a row, got {goal}")
    draws = rng.random((rows, length, 2))
    lengths = 1 + np.searchsorted(SPAN_SHARES, draws[..., 0], side="right")
    # For each place the first start of a word from there on, or the end of the row.
    starts = np.where(word_starts, np.arange(length), length)
    starts = np.minimum.accumulate(starts[:, ::-1], axis=1)[:, ::-1]
    chosen = np.zeros((rows, length), bool)
    most = length if goal is None else goal
    for row in range(rows):
        plan = lengths[row].tolist(), draws[row, :, 1].tolist(), starts[row].tolist()
        for start, end in _spans(*plan, most, alpha, beta):
            chosen[row, start:end] = True
    if goal is not None:
        lots = rng.random((rows, length)) + chosen  # those chosen already come last
        places = lots.argsort(axis=1).argsort(axis=1)
        chosen |= places < goal - chosen.sum(axis=1, keepdims=True)
    return chosen


def _spans(
    lengths: list[int], shares: list[float], starts: list[int], most: int, alpha: int, beta: int
) -> list[tuple[int, int]]:
    """Lay out the spans of one row, at most so many tokens in all."""
    found: list[tuple[int, int]] = []
    place = done = number = 0
    while place < len(starts) and done < most:
        length = min(lengths[number], most - done)
        context = length * alpha // beta
        before = int(shares[number] * context)
        number += 1
        if place + before >= len(starts):
            break
        start = starts[place + before]
        end = start + length
        if end >= len(starts):
            break
        found.append((start, end))
        done += length
        place = end + context - before
    return found


def draw_order(rows: int, length: int, perm_size: int, rng: np.random.Generator) -> Array:
    """Draw a factorisation order for each row: a permutation of `perm_size`, the same for each chunk of that size.

    Returns:
        [B, T], the place of each position in the order; chunks follow each other.
    """
    one = rng.permuted(np.tile(np.arange(perm_size), (rows, 1)), axis=1)
    chunks = np.arange(length) // perm_size * perm_size
    return one[:, np.arange(length) % perm_size] + chunks


def visibility(chosen: Array, functional: Array, order: Array) -> tuple[Array, Array]:
    """Say who may see whom in one half.

    Plain tokens, neither chosen nor functional, are seen by all and see plain ones only. A target sees plain tokens and
    what comes before it in the order. Functional tokens (separators) take part in the order and see themselves, too;
    they are never predicted.

    Args:
        chosen, functional: [B, T] bool.
        order: [B, T], the place of each position in the factorisation order.

    Returns:
        hidden [B, T, T], true where position i may not see position j, and targets [B, T].
    """
    plain = ~(chosen | functional)
    targets = chosen & ~functional
    place = np.where(plain, -1, order).astype("int32")
    sight = np.where(targets, place, place + 1)  # sees what stands before this place, so plain tokens in any case
    return sight[:, :, None] <= place[:, None, :], targets


def join_halves(first: Array, second: Array) -> Array:
    """Return perm_mask [B, T, T] for a window of two halves, from who may not see whom within each.

    The first half sees nothing of the second, so that what a model remembers of it does not depend on the text that the
    next window predicts. The second half sees all of the first, its targets too.
    """
    rows, middle, last = len(first), first.shape[1], second.shape[1]
    joined = np.zeros((rows, middle + last, middle + last), "float32")
    joined[:, :middle, :middle] = first
    joined[:, :middle, middle:] = 1
    joined[:, middle:, middle:] = second
    return joined


def pick_targets(ids: Array, targets: Array, count: int | None, one_hot: bool = True) -> tuple[Array, Array]:
    """Return target_mapping and labels [B, P]: which position each prediction is for, and what stands there.

    Args:
        ids: [B, T].
        targets: [B, T] bool.
        count: P, at least the targets of any row; predictions that no row needs are for no position and have the label
            -100. None for a prediction at every position, labelled -100 where there is no target.
        one_hot: give target_mapping as [B, P, T] with a 1 at the position; else as [B, P] positions, -1 for none.
    """
    rows, length = ids.shape
    if count is None:
        places, labels = np.tile(np.arange(length), (rows, 1)), np.where(targets, ids, IGNORED_LABEL)
    else:
        places, labels = np.full((rows, count), -1), np.full((rows, count), IGNORED_LABEL, ids.dtype)
        row, place = np.nonzero(targets)
        number = (targets.cumsum(axis=1) - 1)[row, place]
        places[row, number], labels[row, number] = place, ids[row, place]
    if not one_hot:
        return places, labels
    mapping = np.zeros((*places.shape, length), "float32")
    row, number = np.nonzero(places >= 0)
    mapping[row, number, places[row, number]] = 1
    return mapping, labels
