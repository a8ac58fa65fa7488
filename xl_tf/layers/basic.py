"""The small layers under everything, without a start of their own: a model starts all its parameters by its table."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

# GELU and leaky ReLU are written out: Keras rounds their constants to float32, whatever computes with them.


def gelu(values: Any) -> Any:
    """Return the Gaussian error linear unit (Hendrycks and Gimpel, 2016), exactly."""
    return values * (ops.erf(values * 0.5**0.5) + 1) / 2


def gelu_by_tanh(values: Any) -> Any:
    """Return the approximation of GELU by a hyperbolic tangent (Hendrycks and Gimpel, 2016, section 2)."""
    return values * (ops.tanh((2 / math.pi) ** 0.5 * values * (1 + 0.044715 * values * values)) + 1) / 2


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "gelu": gelu,
    "gelu_python": gelu,
    "gelu_new": gelu_by_tanh,
    "gelu_fast": gelu_by_tanh,
    "gelu_pytorch_tanh": gelu_by_tanh,
    "quick_gelu": lambda values: values * ops.sigmoid(1.702 * values),
    "relu": ops.relu,
    "relu2": lambda values: ops.square(ops.relu(values)),
    "relu6": ops.relu6,
    "leaky_relu": lambda values: ops.where(values > 0, values, 0.01 * values),
    "silu": ops.silu,
    "swish": ops.silu,
    "mish": lambda values: values * ops.tanh(ops.softplus(values)),
    "tanh": ops.tanh,
    "sigmoid": ops.sigmoid,
    "linear": lambda values: values,
}


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
    """Two linear maps with an activation between them, applied to every position alike.

    Args:
        size: D. inner_size: F. dropout: dropped share after the activation and at the end.
        activation: one of `xlcore.activations.ACTIVATIONS`. drop_inner: whether to drop after it, too.
    """

    def __init__(
        self,
        size: int,
        inner_size: int,
        dropout: float,
        activation: str = "relu",
        drop_inner: bool = True,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__(dtype=dtype)
        self.inner = linear(size, inner_size, dtype=dtype)
        self.outer = linear(inner_size, size, dtype=dtype)
        self.dropout = keras.layers.Dropout(dropout, dtype=dtype)
        self.inner_dropout = keras.layers.Dropout(dropout if drop_inner else 0.0, dtype=dtype)
        self.activation = ACTIVATIONS[activation]
        self.built = True

    def call(self, hidden: Any) -> Any:
        """Map [B, T, D] to [B, T, D]."""
        inner = self.inner_dropout(self.activation(self.inner(hidden)))
        return self.dropout(self.outer(inner))
