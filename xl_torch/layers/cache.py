"""What a model keeps of a text, to read on without reading it again."""

from typing import Any

from torch import Tensor

from xlcore.errors import ConfigError, ShapeError


class KeyValueCache:
    """Keys and values of what a causal model has read, so that it reads on without reading that again.

    Give an empty one to the first call and the same one to each call after it, always with the whole text: only what is
    new is read, and returned. It belongs to one model, and to texts that only grow.

    Attributes:
        length: positions that have been read.
        layers: the keys and values [B, S, N, H] of each layer, and behind them those of an encoder's states.
    """

    def __init__(self) -> None:
        self.length = 0
        self.layers: list[tuple[Tensor, ...]] = []

    def past(self, number: int) -> tuple[Tensor, ...] | None:
        """Return the keys and values of a layer; None if nothing has been read."""
        return self.layers[number] if self.length else None

    def require(self, where: str, config: Any, count: int) -> None:
        """Refuse texts of that many positions which cannot be read on.

        Raises:
            ConfigError, ShapeError: if the model is not causal, or nothing is new.
        """
        if not config.causal:
            raise ConfigError(f"{where}: causal must be true to read on from a cache, got false")
        if count <= self.length:
            raise ShapeError(
                f"{where}: texts must be longer than the {self.length} positions in the cache, got {count}"
            )

    def keep(self, layers: list[tuple[Tensor, ...]], length: int) -> None:
        """Hold the keys and values of all layers, now that `length` positions have been read."""
        self.layers, self.length = layers, length
