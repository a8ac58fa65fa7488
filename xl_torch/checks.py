"""Checks of values, where looking costs no wait for a device."""

import torch
from torch import Tensor

from xlcore.errors import ShapeError
from xlcore.shapes import IGNORED_LABEL


def _at_hand(values: Tensor) -> Tensor | None:
    """Return values if looking at them costs no wait: on the CPU, and not in compiled code; else None."""
    return values if values.device.type == "cpu" and not torch.compiler.is_compiling() else None


def require_ids(where: str, ids: Tensor, count: int, what: str = "ids", also: str = "") -> None:
    """Refuse ids outside [0, count).

    Raises:
        ShapeError: with the first such id; not in compiled code, nor for ids on an accelerator.
    """
    values = _at_hand(ids)
    if values is None or not values.numel():
        return
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= count:
        raise ShapeError(f"{where}: {what} must lie in [0, {count}){also}, got {low if low < 0 else high}")


def surely_above(size: int, most: int) -> bool:
    """Tell whether a size is above what it may be; here all sizes are known."""
    return size > most


def require_labels(where: str, labels: Tensor, count: int, what: str = "labels") -> None:
    """Refuse labels that are neither in [0, count) nor ignored; as `require_ids`."""
    require_ids(where, torch.where(labels == IGNORED_LABEL, 0, labels), count, what, " or be -100")


def one_each(mapping: Tensor) -> Tensor | None:
    """Return which position each row of a mapping [B, P, T] names, [B, P], -1 for none.

    None if rows are not one-hot, or name a position twice; nor is there an answer in compiled code, or on an
    accelerator.
    """
    values = _at_hand(mapping)
    if values is None:
        return None
    named = values == 1
    plain = (named | (values == 0)).all() and (named.sum(-1) <= 1).all() and (named.sum(-2) <= 1).all()
    return torch.where(named.any(-1), named.int().argmax(-1), -1) if plain else None


def require_targets(where: str, mapping: Tensor, count: int) -> None:
    """Refuse targets that are neither a mapping [B, P, T] nor whole numbers [B, P] below T; below 0 names none.

    Raises:
        ShapeError: as `require_ids`, and for real numbers in place of whole ones.
    """
    dtype = mapping.dtype
    if mapping.dim() == 2 and dtype.is_floating_point:
        raise ShapeError(f"{where}: target_mapping [B, P] must hold whole numbers, got {dtype}")
    if mapping.dim() == 2:
        require_ids(where, mapping.clamp(min=0), count, "target_mapping")
