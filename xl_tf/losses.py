"""Losses, each a mean over what is to be predicted; nothing to predict is a loss of zero, not of NaN."""

from typing import Any

import keras
from keras import ops

from xl_tf.checks import require_labels
from xl_tf.ops import pick, precise
from xlcore.heads import classification_problem, require_class_labels


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
    require_labels(where, labels, logits.shape[-1])
    labels = ops.cast(labels, "int32")
    counted = (labels >= 0) & (labels < logits.shape[-1])
    entries = ops.where(counted, labels, 0)
    losses = ops.where(counted, -pick(ops.log_softmax(logits), entries), ops.cast(0.0, logits.dtype))
    return mean_over(losses, counted)
