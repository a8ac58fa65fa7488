"""The loss of predicted words where the vocabulary is large: scores of all words never exist for all positions."""

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from xl_tf.checks import require_labels
from xl_tf.losses import inside, mean_over, told
from xl_tf.ops import pick, precise, softmax

ENTRIES = 1 << 24  # how many scores exist at once
FEWEST = 1 << 20  # and how many may exist however small the table is
FEW = 8  # chunks at least, where all positions need a softmax that few may need


def word_loss(where: str, hidden: Any, labels: Any, weight: Any, bias: Any) -> Any:
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
    counts = [len(states), len(weights), len(biases)]

    @ops.custom_gradient
    def computed(*given: Any) -> Any:
        def gradients(*back: Any, upstream: Any = None) -> Any:
            upstream = back[0] if upstream is None else upstream
            return _gradients(upstream, *_dealt(given, counts), entries, borders)

        states, weights, biases = _dealt(given, counts)
        kind = precise(states[0].dtype)
        losses = ops.zeros(ops.shape(entries[0]), kind)
        for number, wanted in enumerate(entries):
            parts = _parts(weights, borders, number), _parts(biases, borders, number)
            losses = losses + _losses_of(states[number], wanted, *parts, kind)
        return losses, gradients

    return computed(*states, *weights, *biases)


def _losses_of(states: Any, entries: Any, weights: list[Any], biases: list[Any], kind: str) -> Any:
    """Return the losses of one softmax, [P]."""

    def write(start: Any, rows: Any, known: Any, losses: Any) -> Any:
        scores = ops.cast(_scores(ops.take(states, rows, axis=0), weights, biases), kind)
        picked = pick(scores, ops.maximum(ops.take(entries, rows), 0))
        each = ops.where(known, ops.logsumexp(scores, axis=-1) - picked, ops.cast(0.0, kind))
        return (ops.slice_update(losses[0], (start,), each),)

    order, size = _order(entries, weights)
    (losses,) = _over_chunks(order, size, entries, write, (ops.zeros(ops.shape(order), kind),))
    return _back(losses, order, size)


def _gradients(
    upstream: Any, states: list[Any], weights: list[Any], biases: list[Any], entries: list[Any], borders: list[int]
) -> tuple[Any, ...]:
    """Return the gradients of `_losses` by states, weights and biases, for that by its result, [P]."""
    found = []
    for number, wanted in enumerate(entries):
        parts = _parts(weights, borders, number), _parts(biases, borders, number)
        found.append(_gradients_of(upstream, states[number], wanted, *parts))
    by_states, by_weights, by_biases = (list(each) for each in zip(*found, strict=True))
    by_weights, by_biases = (_joined(each, len(weights), len(states)) for each in (by_weights, by_biases))
    rounded = [ops.cast(by, each.dtype) for by, each in zip(by_weights + by_biases, [*weights, *biases], strict=True)]
    return *by_states, *rounded


def _gradients_of(
    upstream: Any, states: Any, entries: Any, weights: list[Any], biases: list[Any]
) -> tuple[Any, list[Any], list[Any]]:
    """Return the gradients of one softmax: by its states, its tables and their biases."""
    kind, sizes = upstream.dtype, [each.shape[0] for each in weights]

    def add(start: Any, rows: Any, known: Any, found: tuple[Any, ...]) -> tuple[Any, ...]:
        by_states, by_weights, by_biases = found[0], found[1 : 1 + len(sizes)], found[1 + len(sizes) :]
        read, wanted = ops.take(states, rows, axis=0), ops.maximum(ops.take(entries, rows), 0)
        shares = softmax(ops.cast(_scores(read, weights, biases), kind))
        shares = shares - ops.one_hot(wanted, sum(sizes), dtype=kind)
        shares = shares * ops.where(known, ops.take(upstream, rows), ops.cast(0.0, kind))[:, None]
        split = _split(shares, sizes)
        by_biases = [by + ops.sum(part, axis=0) for by, part in zip(by_biases, split, strict=True)]
        split = [ops.cast(part, read.dtype) for part in split]
        each = sum(ops.matmul(part, weight) for part, weight in zip(split, weights, strict=True))
        by_weights = [
            by + ops.cast(ops.einsum("cv,cd->vd", part, read), kind) for by, part in zip(by_weights, split, strict=True)
        ]
        return ops.slice_update(by_states, (start, start * 0), each), *by_weights, *by_biases

    order, size = _order(entries, weights)
    empty = [ops.zeros((ops.shape(order)[0], states.shape[1]), states.dtype)]
    empty += [ops.zeros(each.shape, kind) for each in (*weights, *biases)]
    by_states, *rest = _over_chunks(order, size, entries, add, tuple(empty))
    return _back(by_states, order, size), rest[: len(sizes)], rest[len(sizes) :]


def _parts(values: list[Any], borders: list[int], number: int) -> list[Any]:
    """Return the rows of one softmax: its words, and of the first one the clusters."""
    clusters = len(borders) > 2
    tables = values[:-1] if clusters else values
    words = tables[number] if len(tables) > 1 else tables[0][borders[number] : borders[number + 1]]
    return [words, values[-1]] if clusters and number == 0 else [words]


def _joined(found: list[list[Any]], tables: int, softmaxes: int) -> list[Any]:
    """Return the gradients of tables from those of the rows of each softmax: what `_parts` took apart."""
    words, clusters = [each[0] for each in found], found[0][1:]
    one = tables - len(clusters) < softmaxes
    return ([ops.concatenate(words)] if one else words) + clusters


def _scores(states: Any, weights: list[Any], biases: list[Any]) -> Any:
    """Return the scores of the rows of several tables beside each other."""
    parts = [ops.einsum("cd,vd->cv", states, weight) + bias for weight, bias in zip(weights, biases, strict=True)]
    return ops.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]


def _split(scores: Any, sizes: list[int]) -> list[Any]:
    return [scores[:, : sizes[0]], scores[:, sizes[0] :]] if len(sizes) > 1 else [scores]


def _order(entries: Any, weights: list[Any]) -> tuple[Any, int]:
    """Return the positions, those with an entry first, and how many make a chunk; behind them a chunk of zeros.

    The scores of a chunk are no more than the numbers of a table, so that a small model stays small. A softmax without
    clusters may be one that few positions need: its chunks are small, for the last one is filled up.
    """
    most = min(ENTRIES, max(FEWEST, weights[0].shape[0] * weights[0].shape[1]))
    size = max(1, most // sum(each.shape[0] for each in weights))
    size = min(size, -(-entries.shape[0] // (1 if len(weights) > 1 else FEW))) if entries.shape[0] else size
    order = ops.cast(ops.argsort(ops.cast(entries < 0, "int32")), "int32")
    return ops.concatenate([order, ops.zeros((size,), "int32")]), size


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


def _none_of(state: tuple[Any, ...]) -> Any:
    """Return zero, but not before the state is there: TensorFlow would compute, and hold, several chunks at once."""
    firsts = [ops.ravel(each)[0] for each in state]
    return sum(ops.cast(first < first, "int32") for first in firsts)


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
