"""What a model that carries its memory by itself is asked for."""

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from xlcore.config import Unfit, fitted, positive, whole
from xlcore.errors import ConfigError, ShapeError


def require_memory(where: str, length: int, batch_size: Any) -> None:
    """Refuse to carry a memory that has no fixed length, or no rows.

    Raises:
        ConfigError: for a model without memory, or one that starts from an empty memory; for no positive batch size.
    """
    fitted(where, "batch_size", batch_size, positive)
    if length <= 0:
        raise ConfigError(
            f"{where}: carry_memory must have a memory that starts with mem_len zeros, got length {length}"
        )


def require_memory_length(where: str, length: Any, carried: bool) -> None:
    """Refuse to change the length of a memory to what is no number, or while it is carried.

    Raises:
        ConfigError: in either case.
    """
    fitted(where, "mem_len", length, whole)
    if carried:
        raise ConfigError(f"{where}: the memory's length must stay while it is carried, got {length}; drop_memory()")


def require_kept(where: str, training: bool, same: bool, before: tuple[int, str], now: tuple[Any, str]) -> None:
    """Refuse to read on from keys and values that were not kept for this.

    Args:
        where, training: the model that reads, and whether it learns.
        same: whether it is the model that read before.
        before, now: rows of the batch, and the dtype of hidden states.

    Raises:
        ConfigError: in training, and for a memory of another model.
        ShapeError: for another batch or dtype.
    """
    if training:
        raise ConfigError(f"{where}: mems must be a list of arrays in training, got a KeyValueMemory")
    if not same:
        raise ConfigError(f"{where}: mems must be what this model has read, got a KeyValueMemory of another model")
    if now[0] is not None and before[0] != now[0]:
        raise ShapeError(f"{where}: a batch must have the {before[0]} rows that mems hold, got {now[0]}")
    if before[1] != now[1]:
        raise ShapeError(f"{where}: hidden states must be {before[1]} as mems hold them, got {now[1]}")


def chosen_rows(where: str, rows: Any, count: int | None) -> list[int]:
    """Return as numbers which rows go on.

    Args:
        where: what holds them.
        rows: [B'], an array or a list. count: how many there are to choose from; None if nobody knows yet.

    Raises:
        ShapeError: for no rows, for what are no whole numbers, and for rows that are not there.
    """
    given = rows.tolist() if hasattr(rows, "tolist") else rows
    try:
        chosen = [whole(each) for each in given]
    except (TypeError, Unfit):
        chosen = []
    if not chosen or min(chosen) < 0 or (count is not None and max(chosen) >= count):
        known = "from 0 on" if count is None else f"in [0, {count})"
        raise ShapeError(f"{where}: rows must be one or more whole numbers {known}, got {reprlib.repr(given)}")
    return chosen


@contextmanager
def carrying_nothing(body: Any) -> Iterator[None]:
    """Have a model neither read nor change what `carry_memory` carries."""
    carried: Any = getattr(body, "carried", None)  # models without memory have none
    active = carried is not None and carried.active
    if active:
        carried.active = False
    try:
        yield
    finally:
        if active:
            carried.active = True
