"""What a model keeps of a text, to read on without reading it again."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from xl_tf.layers.key_values import rows_of
from xlcore.errors import ConfigError, ShapeError
from xlcore.heads import require_decoder, require_past


class KeyValueCache:
    """Keys and values of what a causal model has read, so that it reads on without reading that again.

    Give an empty one to the first call and the same one to each call after it, always with the whole text: only what is
    new is read, and returned. It belongs to one model, and to texts that only grow.

    Attributes:
        length: positions that have been read.
        layers: the keys and values [B, S, N, H] of each layer, and behind them those of an encoder's states.
        absent: how many of the first positions hold nothing, which steps of `generate` do; None if all hold something.
    """

    def __init__(self) -> None:
        self.length = 0
        self.layers: list[tuple[Any, ...]] = []
        self.absent: Any = None

    def past(self, number: int) -> tuple[Any, ...] | None:
        """Return the keys and values of a layer; None if nothing has been read."""
        return self.layers[number] if self.length else None

    def held(self, words: Any) -> Any:
        """Return what hides the positions that hold nothing from words [B, T], [B, S]; None if all hold something."""
        if self.absent is None:
            return None
        there = ops.arange(self.length + words.shape[1]) >= self.absent
        return ops.tile(ops.cast(there, "int32")[None], (words.shape[0], 1))

    def require(self, where: str, config: Any, keep: Any, source: Any) -> None:
        """Refuse texts that cannot be read on, keep [B, S], beside what is read of an encoder.

        Raises:
            ConfigError: if the model is not causal, or reads an encoder now and has not before, or the other way round.
            ShapeError: if nothing is new, or there are not as many texts as before.
        """
        rows, count = keep.shape
        if not config.causal:
            raise ConfigError(f"{where}: causal must be true to read on from a cache, got false")
        if count <= self.length:
            raise ShapeError(
                f"{where}: texts must be longer than the {self.length} positions in the cache, got {count}"
            )
        before = self.layers[0] if self.layers else ()
        if before and rows != before[0].shape[0]:
            raise ShapeError(f"{where}: texts must be the {before[0].shape[0]} in the cache, got {rows}")
        if before and (len(before) > 2) != (source is not None):
            got = "none in this one" if source is None else "some in this one only"
            raise ConfigError(f"{where}: src_enc must be given in every call with one cache, or in none, got {got}")

    def choose(self, rows: Any) -> None:
        """Have row i go on as what was row rows[i], rows [B'].

        Raises:
            ShapeError: unless these are rows that are there, as far as compiled code knows; nothing has changed then.
        """
        count = self.layers[0][0].shape[0] if self.layers else None
        rows = rows_of("KeyValueCache", rows, count)
        self.layers = [tuple(ops.take(each, rows, axis=0) for each in layer) for layer in self.layers]

    def keep(self, layers: list[tuple[Any, ...]], length: int) -> None:
        """Hold the keys and values of all layers, now that `length` positions have been read."""
        self.layers, self.length = layers, length


Past = KeyValueCache | Sequence[Sequence[Any]] | None


def past_layers(where: str, config: Any, past: Past) -> tuple[list[tuple[Any, ...]], Any]:
    """Return keys and values [B, S, N, H] of each layer of what has been read, none of nothing, and how many words.

    Args:
        past: a cache, or for each layer keys and values as other implementations have them, [B, N, S, H].

    Raises:
        ConfigError, ShapeError: where no decoder reads on, or for what none has returned.
    """
    if past is None:
        return [], 0
    require_decoder(where, config)
    if isinstance(past, KeyValueCache):
        return past.layers, past.length
    require_past(where, config, past)
    layers = [tuple(_turned(each) for each in layer) for layer in past]
    return layers, ops.shape(layers[0][0])[1] if layers else 0


def grown(past: Past, layers: list[tuple[Any, ...]], length: Any) -> Past:
    """Return what has been read, now that it is that long, as it came: a cache, which grows in place, or tuples."""
    if isinstance(past, KeyValueCache):
        past.keep(layers, length)
        return past
    return tuple(tuple(_turned(each) for each in layer) for layer in layers)


def _turned(values: Any) -> Any:
    """Turn [B, N, S, H] into [B, S, N, H], or back."""
    return ops.transpose(values, (0, 2, 1, 3))
