"""Checks of values, where looking costs no wait for a device."""

from typing import Any

import keras
import numpy as np
from keras import ops

from xl_tf.ops import at_hand
from xlcore.errors import ShapeError
from xlcore.shapes import IGNORED_LABEL


def require_ids(where: str, ids: Any, count: int, what: str = "ids", also: str = "") -> None:
    """Refuse ids outside [0, count).

    Raises:
        ShapeError: with the first such id; not in compiled code, nor for ids on an accelerator.
    """
    values = at_hand(ids)
    if values is None or not values.size:
        return
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= count:
        raise ShapeError(f"{where}: {what} must lie in [0, {count}){also}, got {low if low < 0 else high}")


def surely_above(size: Any, most: int) -> bool:
    """Tell whether a size is above what it may be; one that a graph does not know yet is not surely."""
    return isinstance(size, int) and size > most


def require_labels(where: str, labels: Any, count: int, what: str = "labels") -> None:
    """Refuse labels that are neither in [0, count) nor ignored; as `require_ids`."""
    require_ids(where, ops.where(ops.equal(labels, IGNORED_LABEL), 0, labels), count, what, " or be -100")


def one_each(mapping: Any) -> Any:
    """Return which position each row of a mapping [B, P, T] names, [B, P], -1 for none.

    None if rows are not one-hot, or name a position twice; nor is there an answer in compiled code, or on an
    accelerator.
    """
    values = at_hand(mapping)
    if values is None:
        return None
    named = values == 1
    plain = (named | (values == 0)).all() and (named.sum(-1) <= 1).all() and (named.sum(-2) <= 1).all()
    return ops.convert_to_tensor(np.where(named.any(-1), named.argmax(-1), -1), "int32") if plain else None


def require_targets(where: str, mapping: Any, count: Any) -> None:
    """Refuse targets that are neither a mapping [B, P, T] nor whole numbers [B, P] below T; below 0 names none.

    Raises:
        ShapeError: as `require_ids`, and for real numbers in place of whole ones.
    """
    dtype = keras.backend.standardize_dtype(mapping.dtype)
    if len(mapping.shape) == 2 and "float" in dtype:
        raise ShapeError(f"{where}: target_mapping [B, P] must hold whole numbers, got {dtype}")
    if len(mapping.shape) == 2 and count is not None:
        require_ids(where, ops.maximum(mapping, 0), count, "target_mapping")
