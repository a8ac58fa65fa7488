"""The loss of predicted words where the vocabulary is large: scores of all words never exist for all positions."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from keras import ops

from xl_tf.backend import rewriting, room, with_rows
from xl_tf.checks import require_labels
from xl_tf.losses import inside, mean_over, told
from xl_tf.ops import pick, precise

ENTRIES = 1 << 24  # how many scores exist at once
FEWEST = 1 << 20  # and how many may exist however small the table is
FEW = 8  # chunks at least, where all positions need a softmax that few may need
LEAST = 1 << 10  # words at once on the way back, however many positions there are
ROWS = 1 << 6  # positions at once on the way back, however few words there are
NUMBERS = 1 << 22  # of a table's gradient that are summed up at once


def word_loss(where: str, hidden: Any, labels: Any, weight: Any, bias: Any) -> Any:
    """Return the mean cross entropy of words, as `entry_loss` of their scores; -100 is ignored.

    Only positions with a label cost anything: a chunk of them at a time; on the way back a block of words, too.

    Args:
        where: the model, for errors.
        hidden: [..., D]. labels: [...].
        weight: [V, D] and bias: [V], the scores of words.

    Raises:
        ShapeError: for labels that are neither words nor -100, where looking costs no wait; elsewhere it is NaN.
    """
    count = weight.shape[0]
    require_labels(where, labels, count)
    labels = ops.ravel(ops.cast(labels, "int32"))
    counted = inside(labels, count)
    states = [ops.reshape(hidden, (-1, hidden.shape[-1]))]
    losses = entry_losses(states, [ops.where(counted, labels, -1)], [weight], [bias], [0, count])
    return mean_over(told(losses, labels, counted), counted)


def entry_losses(
    states: Sequence[Any],
    entries: Sequence[Any],
    weights: Sequence[Any],
    biases: Sequence[Any],
    borders: Sequence[int],
) -> Any:
    """Return what entries of several softmaxes cost each position together: the sum of -log p(entry), [P].

    Args:
        states: what each softmax reads, [P, E]. entries: for each softmax [P], below zero where it costs nothing.
        weights, biases: the table [V, E] and biases [V] of all words, or those of each softmax; behind them, if there
            are several softmaxes, those of the clusters, which the first one has, too.
        borders: where the words of each softmax begin and end, from 0 to V.
    """
    dtype = states[0].dtype
    weights, biases = ([ops.cast(each, dtype) for each in values] for values in (weights, biases))
    return _losses(list(states), [ops.cast(each, "int32") for each in entries], weights, biases, list(borders))


def _losses(states: list[Any], entries: list[Any], weights: list[Any], biases: list[Any], borders: list[int]) -> Any:
    """Return the losses, [P], for entries [P] of each of C + 1 softmaxes."""
    counts, takes = [len(states), len(weights), len(biases)], rewriting()

    @ops.custom_gradient
    def computed(*given: Any) -> Any:
        states, weights, biases = _dealt(given, counts)
        kind, totals = precise(states[0].dtype), []
        losses = ops.zeros(ops.shape(entries[0]), kind)
        for number, wanted in enumerate(entries):
            none = _none_of((losses,))
            parts = _parts(weights, borders, number, none), _parts(biases, borders, number, none)
            each, total = _losses_of(states[number], wanted + none, *parts, kind)
            losses, totals = losses + each, [*totals, total]

        def gradients(*back: Any, upstream: Any = None) -> Any:
            upstream = back[0] if upstream is None else upstream
            return _gradients(upstream, totals, states, entries, weights, biases, borders, takes)

        return losses, gradients

    return computed(*states, *weights, *biases)


def _losses_of(states: Any, entries: Any, weights: list[Any], biases: list[Any], kind: str) -> tuple[Any, Any]:
    """Return the losses of one softmax, [P], and the logs of its sums, [P]."""

    def write(start: Any, rows: Any, known: Any, found: tuple[Any, ...]) -> tuple[Any, ...]:
        scores = ops.cast(_scores(ops.take(states, rows, axis=0), weights, biases), kind)
        picked, total = pick(scores, ops.maximum(ops.take(entries, rows), 0)), ops.logsumexp(scores, axis=-1)
        each = ops.where(known, total - picked, ops.cast(0.0, kind))
        return ops.slice_update(found[0], (start,), each), ops.slice_update(found[1], (start,), total)

    size = _size(entries, weights)
    order = _order(entries, size)
    empty = ops.zeros(ops.shape(order), kind)
    losses, totals = _over_chunks(order, size, entries, write, (empty, empty))
    return _back(losses, order, size), _back(totals, order, size)


def _gradients(
    upstream: Any,
    totals: list[Any],
    states: list[Any],
    entries: list[Any],
    weights: list[Any],
    biases: list[Any],
    borders: list[int],
    takes: str,
) -> tuple[Any, ...]:
    """Return the gradients of `_losses` by states, weights and biases, for that by its result, [P].

    A block of words at a time: each row of a table is written once, as it stays, and never added to.

    Args:
        takes: what it takes to write rows, see `rewriting`; if all is copied a block is all words.
    """
    by_states: list[Any] = []
    by_weights, by_biases = [None] * len(weights), [None] * len(biases)
    for number, wanted in enumerate(entries):
        wanted = wanted + _none_of(by_states)
        size, first = _size_back(wanted, weights), 0
        order = _order(wanted, size)
        add = partial(_add, order, size, wanted, states[number], totals[number], upstream)
        by_read = room((ops.shape(order)[0], states[number].shape[1]), upstream.dtype, takes, totals[-1])
        for table, start, end in _places(weights, borders, number):
            words = end - start if takes == "copy" else min(end - start, _block(weights, size))
            found = by_read, by_weights[table], by_biases[table]
            given = partial(add, start - first), weights[table], biases[table]
            by_read, by_weights[table], by_biases[table] = _over_blocks(*given, start, end, words, found, takes)
            first += end - start
        by_states.append(ops.cast(_back(by_read, order, size), states[number].dtype))
    return *by_states, *by_weights, *by_biases


def _add(
    order: Any, size: int, entries: Any, states: Any, totals: Any, upstream: Any,
    before: int, place: Any, weight: Any, bias: Any, by_states: Any, takes: str,
) -> tuple[Any, ...]:  # fmt: skip
    """Add a block of words to the gradient of what a softmax reads; return it, and those of the block.

    Args:
        before: where in the table the softmax begins. place: where the block does.
    """
    kind = upstream.dtype

    def add(start: Any, rows: Any, known: Any, found: tuple[Any, ...]) -> tuple[Any, ...]:
        by_states, by_weight, by_bias = found
        read, total = ops.take(states, rows, axis=0), ops.take(totals, rows)
        shares = _shares(read, weight, bias, ops.where(known, total, float("inf"))[:, None])
        shares = shares - ops.one_hot(ops.take(entries, rows) - (place - before), weight.shape[0], dtype=kind)
        shares = shares * ops.where(known, ops.take(upstream, rows), ops.cast(0.0, kind))[:, None]
        by_bias = by_bias + ops.sum(shares, axis=0)
        shares = ops.cast(shares, weight.dtype)
        by_weight = by_weight + ops.cast(ops.einsum("cv,cd->vd", shares, read), kind)
        by_read = ops.slice(by_states, (start, 0), (size, weight.shape[1]))
        by_read = by_read + ops.cast(ops.matmul(shares, weight), kind)
        return with_rows(by_states, start, by_read, takes), by_weight, by_bias

    empty = (room(each.shape, kind, takes, by_states) for each in (weight, bias))
    return _over_chunks(order, size, entries, add, (by_states, *empty))


def _shares(read: Any, weight: Any, bias: Any, totals: Any) -> Any:
    """Return the probabilities of a block of words, given the logarithm of the sum over all, [P, 1]."""
    scores = ops.einsum("cd,vd->cv", read, weight) + bias
    return ops.exp(ops.cast(scores, totals.dtype) - totals)


def _most(weights: list[Any]) -> int:
    """Return how many scores may exist at once: no more than numbers of a table, so that a small model stays small."""
    return min(ENTRIES, max(FEWEST, weights[0].shape[0] * weights[0].shape[1]))


def _parts(values: list[Any], borders: list[int], number: int, none: Any) -> list[Any]:
    """Return the rows of one softmax: its words, and of the first one the clusters; `none`: see `_none_of`."""
    found = []
    for table, start, end in _places(values, borders, number):
        value = values[table]
        if end - start < value.shape[0]:
            value = ops.slice(value, (start + none, *[0] * len(value.shape[1:])), (end - start, *value.shape[1:]))
        found.append(value)
    return found


def _places(values: list[Any], borders: list[int], number: int) -> list[tuple[int, int, int]]:
    """Return where the rows of one softmax stand: in which table, from where to where."""
    clusters = len(borders) > 2
    tables = len(values) - 1 if clusters else len(values)
    words = (number, 0, values[number].shape[0]) if tables > 1 else (0, borders[number], borders[number + 1])
    return [words, (tables, 0, values[-1].shape[0])] if clusters and number == 0 else [words]


def _scores(states: Any, weights: list[Any], biases: list[Any]) -> Any:
    """Return the scores of the rows of several tables beside each other."""
    parts = [ops.einsum("cd,vd->cv", states, weight) + bias for weight, bias in zip(weights, biases, strict=True)]
    return ops.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]


def _size(entries: Any, weights: list[Any]) -> int:
    """Return how many positions make a chunk on the way forth.

    A softmax without clusters may be one that few positions need: its chunks are small, for the last one is filled up.
    """
    size = max(1, _most(weights) // sum(each.shape[0] for each in weights))
    return min(size, -(-entries.shape[0] // (1 if len(weights) > 1 else FEW))) if entries.shape[0] else size


def _size_back(entries: Any, weights: list[Any]) -> int:
    """Return how many positions make a chunk on the way back, where the last one is filled up, too."""
    size = max(1, _most(weights) // LEAST)
    return min(size, entries.shape[0], max(ROWS, -(-entries.shape[0] // (2 * FEW)))) if entries.shape[0] else size


def _block(weights: list[Any], size: int) -> int:
    """Return how many words make a block, given how many positions a chunk: few, so that it stays in the caches."""
    return max(LEAST, min(_most(weights) // size, NUMBERS // weights[0].shape[1]))


def _order(entries: Any, size: int) -> Any:
    """Return the positions, those with an entry first; behind them a chunk of zeros."""
    order = ops.cast(ops.argsort(ops.cast(entries < 0, "int32")), "int32")
    return ops.concatenate([order, ops.zeros((size,), "int32")])


def _over_blocks(
    step: Callable[..., tuple[Any, ...]],
    weight: Any,
    bias: Any,
    start: int,
    end: int,
    size: int,
    found: tuple[Any, ...],
    takes: str,
) -> tuple[Any, ...]:
    """Take a step for each block of the rows of a table from `start` to `end`, and write what it finds of them.

    Args:
        step: from the place of a block, its rows, their biases and the gradient of what is read to this gradient and
            those of the rows and biases.
        found: the gradients of what is read, of the table and the biases, which are None before the first row.
    """

    def written(place: Any, count: int, found: tuple[Any, ...]) -> tuple[Any, ...]:
        rows = ops.slice(weight, (place, 0), (count, weight.shape[1])), ops.slice(bias, (place,), (count,))
        by_read, *by = step(place, *rows, found[0], takes)
        by = [ops.cast(each, rows[0].dtype) for each in by]
        if found[1] is None:
            return by_read, *by
        return by_read, *(with_rows(to, place, each, takes) for to, each in zip(found[1:], by, strict=True))

    def body(place: Any, *found: Any) -> tuple[Any, ...]:
        found = written(place, size, found)
        return place + size + _none_of(found), *found

    if size < weight.shape[0] and found[1] is None:
        found = found[0], *(room(each.shape, each.dtype, takes, found[0]) for each in (weight, bias))
    rest = end - (end - start) % size
    if rest - start > size:
        _, *found = ops.while_loop(lambda place, *found: place < rest, body, (ops.cast(start, "int32"), *found))
        start = rest
    for place, count in ((start, rest - start), (rest, end - rest)):
        found = written(place, count, tuple(found)) if count else found
    return tuple(found)


def _over_chunks(
    order: Any, size: int, entries: Any, step: Callable[[Any, Any, Any, Any], tuple[Any, ...]], state: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Take a step for each chunk of positions with an entry; as many as there are, in compiled code too.

    Args:
        step: from the first place of a chunk, its positions [C], which of them count [C] and the state to the next.
    """
    count = ops.sum(ops.cast(entries >= 0, "int32"))

    def body(start: Any, *state: Any) -> tuple[Any, ...]:
        rows = ops.slice(order, (start,), (size,))
        state = step(start, rows, start + ops.arange(size, dtype="int32") < count, state)
        return start + size + _none_of(state), *state

    found = ops.while_loop(lambda start, *state: start < count, body, (ops.cast(0, "int32"), *state))
    return tuple(found[1:])


def _none_of(state: Sequence[Any]) -> Any:
    """Return zero, but not before the state is there: TensorFlow would compute, and hold, several chunks at once."""
    firsts = [ops.sum(ops.ravel(each)[:1]) for each in state]
    return sum((ops.cast(first < first, "int32") for first in firsts), ops.cast(0, "int32"))


def _back(values: Any, order: Any, size: int) -> Any:
    """Return values in the order of the positions, without what stands behind them."""
    places = ops.argsort(order[:-size])
    return ops.take(values, places, axis=0)


def _dealt(values: Sequence[Any], counts: list[int]) -> list[list[Any]]:
    """Return a list as several ones of these lengths."""
    found, start = [], 0
    for count in counts:
        found.append(list(values[start : start + count]))
        start += count
    return found
