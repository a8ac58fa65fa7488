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
    require_labels(where, labels, logits.shape[-1])
    labels = labels.long()
    counted = (labels >= 0) & (labels < logits.shape[-1])
    entries = torch.where(counted, labels, IGNORED_LABEL)
    losses = F.cross_entropy(logits, entries, reduction="none", ignore_index=IGNORED_LABEL)
    return mean_over(losses, counted)
