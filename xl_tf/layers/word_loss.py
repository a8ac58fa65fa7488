"""The loss of predicted words where the vocabulary is large: scores of all words never exist for all positions."""

from collections.abc import Callable
from typing import Any

from keras import ops

from xl_tf.checks import require_labels
from xl_tf.losses import inside, mean_over, told
from xl_tf.ops import pick, precise, softmax

ENTRIES = 1 << 24  # how many scores exist at once


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
    hidden, weight, bias = _cast(ops.reshape(hidden, (-1, hidden.shape[-1])), weight, bias)
    losses = _losses(hidden, ops.where(counted, labels, -1), weight, bias)
    return mean_over(told(losses, labels, counted), counted)


def _cast(hidden: Any, weight: Any, bias: Any) -> tuple[Any, Any, Any]:
    """Return all in one dtype, which is that of automatic mixed precision where that is on."""
    dtype = hidden.dtype
    return hidden, ops.cast(weight, dtype), ops.cast(bias, dtype)


def _losses(hidden: Any, labels: Any, weight: Any, bias: Any) -> Any:
    """Return -log p(label), [P], for hidden [P, D] and labels [P]; zero for labels below zero."""

    @ops.custom_gradient
    def computed(hidden: Any, weight: Any, bias: Any) -> Any:
        def gradients(*given: Any, upstream: Any = None) -> Any:
            upstream = given[0] if upstream is None else upstream
            return _gradients(upstream, hidden, labels, weight, bias)

        kind = precise(hidden.dtype)

        def write(start: Any, rows: Any, known: Any, losses: Any) -> Any:
            scores = ops.cast(_scores(ops.take(hidden, rows, axis=0), weight, bias), kind)
            picked = pick(scores, ops.maximum(ops.take(labels, rows), 0))
            each = ops.where(known, ops.logsumexp(scores, axis=-1) - picked, ops.cast(0.0, kind))
            return (ops.slice_update(losses[0], (start,), each),)

        order, size = _order(labels, weight)
        (losses,) = _over_chunks(order, size, labels, write, (ops.zeros(ops.shape(order), kind),))
        return _back(losses, order, size), gradients

    return computed(hidden, weight, bias)


def _gradients(upstream: Any, hidden: Any, labels: Any, weight: Any, bias: Any) -> tuple[Any, Any, Any]:
    """Return the gradients of `_losses` by hidden states, weight and bias, for that by its result, [P]."""
    kind = upstream.dtype

    def add(start: Any, rows: Any, known: Any, found: tuple[Any, ...]) -> tuple[Any, ...]:
        by_hidden, by_weight, by_bias = found
        states, wanted = ops.take(hidden, rows, axis=0), ops.maximum(ops.take(labels, rows), 0)
        shares = softmax(ops.cast(_scores(states, weight, bias), kind))
        shares = shares - ops.one_hot(wanted, weight.shape[0], dtype=kind)
        shares = shares * ops.where(known, ops.take(upstream, rows), ops.cast(0.0, kind))[:, None]
        by_bias = by_bias + ops.sum(shares, axis=0)
        shares = ops.cast(shares, weight.dtype)
        by_hidden = ops.slice_update(by_hidden, (start, 0), ops.matmul(shares, weight))
        by_weight = by_weight + ops.cast(ops.einsum("cv,cd->vd", shares, states), kind)
        return by_hidden, by_weight, by_bias

    order, size = _order(labels, weight)
    by_hidden = ops.zeros((ops.shape(order)[0], hidden.shape[1]), hidden.dtype)
    empty = (by_hidden, ops.zeros(weight.shape, kind), ops.zeros(bias.shape, kind))
    by_hidden, by_weight, by_bias = _over_chunks(order, size, labels, add, empty)
    return _back(by_hidden, order, size), ops.cast(by_weight, weight.dtype), ops.cast(by_bias, bias.dtype)


def _scores(hidden: Any, weight: Any, bias: Any) -> Any:
    return ops.einsum("cd,vd->cv", hidden, weight) + bias


def _order(labels: Any, weight: Any) -> tuple[Any, int]:
    """Return the positions, those with a label first, and how many make a chunk; behind them a chunk of zeros."""
    size = max(1, ENTRIES // weight.shape[0])
    size = min(size, labels.shape[0]) if labels.shape[0] else size
    order = ops.cast(ops.argsort(ops.cast(labels < 0, "int32")), "int32")
    return ops.concatenate([order, ops.zeros((size,), "int32")]), size


def _over_chunks(
    order: Any, size: int, labels: Any, step: Callable[[Any, Any, Any, Any], tuple[Any, ...]], state: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Take a step for each chunk of positions with a label; as many as there are, in compiled code too.

    Args:
        step: from the first place of a chunk, its positions [C], which of them count [C] and the state to the next.
    """
    count = ops.sum(ops.cast(labels >= 0, "int32"))

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
