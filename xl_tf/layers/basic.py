"""The small layers under everything, without a start of their own: a model starts all its parameters by its table."""

from typing import Any

import keras
from keras import ops


def linear(inputs: int, outputs: int, *, bias: bool = True, dtype: Any = None) -> keras.layers.Dense:
    """Make a linear map whose values are still to be set."""
    layer = keras.layers.Dense(outputs, use_bias=bias, kernel_initializer="zeros", dtype=dtype)
    layer.build((None, inputs))
    return layer


def layer_norm(size: int, epsilon: float, *, dtype: Any = None) -> keras.layers.LayerNormalization:
    """Make a layer normalisation."""
    layer = keras.layers.LayerNormalization(epsilon=epsilon, dtype=dtype)
    layer.build((None, size))
    return layer


def parameter(layer: keras.Layer, name: str, *shape: int) -> Any:
    """Make a parameter whose values are still to be set."""
    return layer.add_weight(shape, initializer="zeros", name=name)


class FeedForward(keras.Layer):
    """Two linear maps with a rectifier between them, applied to every position alike.

    Args:
        size: D. inner_size: F. dropout: dropped share after the rectifier and at the end.
    """

    def __init__(self, size: int, inner_size: int, dropout: float, *, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.inner = linear(size, inner_size, dtype=dtype)
        self.outer = linear(inner_size, size, dtype=dtype)
        self.dropout = keras.layers.Dropout(dropout, dtype=dtype)
        self.built = True

    def call(self, hidden: Any) -> Any:
        """Map [B, T, D] to [B, T, D]."""
        inner = self.dropout(ops.relu(self.inner(hidden)))
        return self.dropout(self.outer(inner))
