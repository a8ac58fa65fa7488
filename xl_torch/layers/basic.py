"""The small layers under everything, without a start of their own: a model starts all its parameters by its table."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init


def gelu(values: Tensor) -> Tensor:
    """Return the Gaussian error linear unit (Hendrycks and Gimpel, 2016), exactly."""
    return F.gelu(values)


def gelu_by_tanh(values: Tensor) -> Tensor:
    """Return the approximation of GELU by a hyperbolic tangent (Hendrycks and Gimpel, 2016, section 2)."""
    return F.gelu(values, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu_python": gelu,
    "gelu_new": gelu_by_tanh,
    "gelu_fast": gelu_by_tanh,
    "gelu_pytorch_tanh": gelu_by_tanh,
    "quick_gelu": lambda values: values * torch.sigmoid(1.702 * values),
    "relu": torch.relu,
    "relu2": lambda values: torch.square(torch.relu(values)),
    "relu6": F.relu6,
    "leaky_relu": lambda values: F.leaky_relu(values, 0.01),
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "linear": lambda values: values,
}


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """Make a linear map whose values are still to be set."""
    return skip_init(nn.Linear, inputs, outputs, bias=bias)


def layer_norm(size: int, epsilon: float) -> nn.LayerNorm:
    """Make a layer normalisation."""
    return nn.LayerNorm(size, eps=epsilon)


def parameter(*shape: int) -> nn.Parameter:
    """Make a parameter whose values are still to be set."""
    return nn.Parameter(torch.empty(*shape))


class FeedForward(nn.Module):
    """Two linear maps with an activation between them, applied to every position alike.

    Args:
        size: D. inner_size: F. dropout: dropped share after the activation and at the end.
        activation: one of `xlcore.activations.ACTIVATIONS`. drop_inner: whether to drop after it, too.
    """

    def __init__(
        self, size: int, inner_size: int, dropout: float, activation: str = "relu", drop_inner: bool = True
    ) -> None:
        super().__init__()
        self.inner = linear(size, inner_size)
        self.outer = linear(inner_size, size)
        self.dropout = nn.Dropout(dropout)
        self.inner_dropout = nn.Dropout(dropout if drop_inner else 0.0)
        self.activation = ACTIVATIONS[activation]

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [B, T, D] to [B, T, D]."""
        inner = self.inner_dropout(self.activation(self.inner(hidden)))
        return self.dropout(self.outer(inner))
