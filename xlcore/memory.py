"""What a model that carries its memory by itself is asked for."""

from typing import Any

from xlcore.config import fitted, positive, whole
from xlcore.errors import ConfigError


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
