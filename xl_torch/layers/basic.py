"""The small layers under everything, without a start of their own: a model starts all its parameters by its table."""

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init


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
    """Two linear maps with a rectifier between them, applied to every position alike.

    Args:
        size: D. inner_size: F. dropout: dropped share after the rectifier and at the end.
    """

    def __init__(self, size: int, inner_size: int, dropout: float) -> None:
        super().__init__()
        self.inner = linear(size, inner_size)
        self.outer = linear(inner_size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [B, T, D] to [B, T, D]."""
        inner = self.dropout(torch.relu(self.inner(hidden)))
        return self.dropout(self.outer(inner))
