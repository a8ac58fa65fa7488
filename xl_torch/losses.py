"""Losses, each a mean over what is to be predicted; nothing to predict is a loss of zero, not of NaN."""

import torch
import torch.nn.functional as F
from torch import Tensor

from xl_torch.checks import require_labels
from xlcore.heads import classification_problem, require_class_labels
from xlcore.shapes import IGNORED_LABEL


def mean_over(losses: Tensor, counted: Tensor) -> Tensor:
    """Return the mean of the counted losses, zero if none is counted."""
    return losses.sum() / counted.sum().clamp(min=1)


def classification_loss(where: str, logits: Tensor, labels: Tensor, problem_type: str | None) -> Tensor:
    """Return the loss of a sequence classifier (the rule is `xlcore.heads.classification_problem`).

    Args:
        where: the model, for errors.
        logits: [B, K]. labels: [B] classes (-100 is ignored), [B] or [B, K] numbers, [B, K] zeros and ones.
    """
    integer = not labels.is_floating_point()
    problem = classification_problem(problem_type, logits.shape[-1], integer)
    require_class_labels(where, problem, labels.shape, logits.shape)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if problem == "regression":
        return F.mse_loss(logits.flatten(), labels.to(logits.dtype).flatten())
    if problem == "multi_label_classification":
        labels = labels.to(logits.dtype).reshape(logits.shape)
        return F.binary_cross_entropy_with_logits(logits, labels)
    return entry_loss(where, logits, labels)


def entry_loss(where: str, logits: Tensor, labels: Tensor, what: str = "labels") -> Tensor:
    """Return the mean cross entropy of one entry of each row: logits [..., V], labels [...]; -100 is ignored.

    Raises:
        ShapeError: for labels that are neither entries nor -100, where looking costs no wait; elsewhere it is NaN.
    """
    require_labels(where, labels, logits.shape[-1], what)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, -2)
    labels = labels.long().flatten()
    counted = inside(labels, logits.shape[-1])
    entries = torch.where(counted, labels, IGNORED_LABEL)
    losses = F.cross_entropy(logits, entries, reduction="none", ignore_index=IGNORED_LABEL)
    return mean_over(told(losses, labels, counted), counted)


def told(losses: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """Return the losses that count, zero where the label is -100, and NaN where it is no label.

    Compiled code cannot refuse a wrong label; NaN says that there is one where zero would say that all is well.
    """
    return torch.where(counted, losses, torch.where(labels == IGNORED_LABEL, 0.0, torch.nan).to(losses.dtype))


def span_loss(where: str, start_logits: Tensor, end_logits: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """Return the mean of the losses of the starts and of the ends of answers: logits [B, P], positions [B].

    Positions behind the end, of answers that were cut off, are ignored, as is -100.

    Raises:
        ShapeError: for other positions before the start, on the CPU.
    """
    P = start_logits.shape[1]
    starts, ends = (torch.where(each < P, each, IGNORED_LABEL) for each in (starts, ends))
    by_start = entry_loss(where, start_logits, starts, "start_positions")
    by_end = entry_loss(where, end_logits, ends, "end_positions")
    return (by_start + by_end) / 2


def inside(positions: Tensor, count: int) -> Tensor:
    """Tell which positions lie in [0, count)."""
    return (positions >= 0) & (positions < count)
