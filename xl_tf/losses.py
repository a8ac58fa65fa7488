"""Losses, each a mean over what is to be predicted; nothing to predict is a loss of zero, not of NaN."""

from typing import Any

import keras
from keras import ops

from xl_tf.checks import require_labels
from xl_tf.ops import pick, precise
from xlcore.heads import classification_problem, require_class_labels
from xlcore.shapes import IGNORED_LABEL


def mean_over(losses: Any, counted: Any) -> Any:
    """Return the mean of the counted losses, zero if none is counted."""
    return ops.sum(losses) / ops.maximum(ops.sum(ops.cast(counted, losses.dtype)), 1)


def classification_loss(where: str, logits: Any, labels: Any, problem_type: str | None) -> Any:
    """Return the loss of a sequence classifier (the rule is `xlcore.heads.classification_problem`).

    Args:
        where: the model, for errors.
        logits: [B, K]. labels: [B] classes (-100 is ignored), [B] or [B, K] numbers, [B, K] zeros and ones.
    """
    integer = "float" not in keras.backend.standardize_dtype(labels.dtype)
    problem = classification_problem(problem_type, logits.shape[-1], integer)
    require_class_labels(where, problem, labels.shape, logits.shape)
    logits = ops.cast(logits, precise(logits.dtype))
    if problem == "regression":
        return ops.mean(ops.square(ops.ravel(logits) - ops.cast(ops.ravel(labels), logits.dtype)))
    if problem == "multi_label_classification":
        labels = ops.reshape(ops.cast(labels, logits.dtype), ops.shape(logits))
        return ops.mean(ops.binary_crossentropy(labels, logits, from_logits=True))
    return entry_loss(where, logits, labels)


def entry_loss(where: str, logits: Any, labels: Any, what: str = "labels") -> Any:
    """Return the mean cross entropy of one entry of each row: logits [..., V], labels [...]; -100 is ignored.

    Raises:
        ShapeError: for labels that are neither entries nor -100, where looking costs no wait; elsewhere it is NaN.
    """
    count = ops.shape(logits)[-1]
    require_labels(where, labels, count, what)
    logits = ops.reshape(ops.cast(logits, precise(logits.dtype)), (-1, count))
    labels = ops.ravel(ops.cast(labels, "int32"))
    counted = inside(labels, count)
    entries = ops.where(counted, labels, 0)
    losses = -pick(ops.log_softmax(logits), entries)
    return mean_over(told(losses, labels, counted), counted)


def told(losses: Any, labels: Any, counted: Any) -> Any:
    """Return the losses that count, zero where the label is -100, and NaN where it is no label.

    Compiled code cannot refuse a wrong label; NaN says that there is one where zero would say that all is well.
    """
    return ops.where(
        counted, losses, ops.cast(ops.where(ops.equal(labels, IGNORED_LABEL), 0.0, float("nan")), losses.dtype)
    )


def span_loss(where: str, start_logits: Any, end_logits: Any, starts: Any, ends: Any) -> Any:
    """Return the mean of the losses of the starts and of the ends of answers: logits [B, P], positions [B].

    Positions behind the end, of answers that were cut off, are ignored, as is -100.

    Raises:
        ShapeError: for other positions before the start, on the CPU.
    """
    P = ops.shape(start_logits)[1]
    starts, ends = (ops.where(each < P, each, IGNORED_LABEL) for each in (starts, ends))
    by_start = entry_loss(where, start_logits, starts, "start_positions")
    by_end = entry_loss(where, end_logits, ends, "end_positions")
    return (by_start + by_end) / 2


def inside(positions: Any, count: Any) -> Any:
    """Tell which positions lie in [0, count)."""
    return (positions >= 0) & (positions < count)
