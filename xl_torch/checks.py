"""Checks of values, where looking costs no wait for a device."""

import torch
from torch import Tensor

from xlcore.errors import ShapeError
from xlcore.shapes import IGNORED_LABEL


def require_ids(where: str, ids: Tensor, count: int, what: str = "ids", also: str = "") -> None:
    """Refuse ids outside [0, count).

    Raises:
        ShapeError: with the first such id; not in compiled code, nor for ids on an accelerator.
    """
    if ids.device.type != "cpu" or torch.compiler.is_compiling() or not ids.numel():
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= count:
        raise ShapeError(f"{where}: {what} must lie in [0, {count}){also}, got {low if low < 0 else high}")


def require_labels(where: str, labels: Tensor, count: int) -> None:
    """Refuse labels that are neither in [0, count) nor ignored; as `require_ids`."""
    require_ids(where, torch.where(labels == IGNORED_LABEL, 0, labels), count, "labels", " or be -100")
