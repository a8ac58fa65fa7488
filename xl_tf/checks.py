"""Checks of values, where looking costs no wait for a device."""

from typing import Any

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


def require_labels(where: str, labels: Any, count: int) -> None:
    """Refuse labels that are neither in [0, count) nor ignored; as `require_ids`."""
    require_ids(where, ops.where(ops.equal(labels, IGNORED_LABEL), 0, labels), count, "labels", " or be -100")
