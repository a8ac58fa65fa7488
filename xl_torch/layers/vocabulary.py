"""One table of embeddings for all words, and the scores of all words."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from xl_torch.checks import require_ids
from xl_torch.layers.basic import parameter
from xl_torch.layers.shared_table import looked_up, read_again
from xl_torch.layers.word_loss import word_loss


class Embedding(nn.Module):
    """A vector for each id.

    Args:
        count: V. size: D. padding: an id that learns nothing from where it is looked up.
    """

    def __init__(self, count: int, size: int, padding: int | None = None) -> None:
        super().__init__()
        self.count, self.padding = count, padding
        self.weight = parameter(count, size)

    def forward(self, ids: Tensor) -> Tensor:
        """Embed ids of any shape as [..., D].

        Raises:
            ShapeError: for an id outside the vocabulary, on the CPU.
        """
        require_ids("Embedding", ids, self.count)
        return looked_up(self.weight, ids.long(), self.padding)


class WordScores(nn.Module):
    """A score for each word: its row of a table times the hidden state, and its bias.

    Args:
        count: V. size: D. weight: the table of an embedding, to share it.
    """

    def __init__(self, count: int, size: int, weight: Any = None) -> None:
        super().__init__()
        self.weight = parameter(count, size) if weight is None else weight
        self.bias = parameter(count)

    def forward(self, hidden: Tensor) -> Tensor:
        """Score [..., D] as [..., V]."""
        return F.linear(hidden, self.weight, self.bias)

    def mean_loss(self, where: str, hidden: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of words: hidden [..., D], labels [...]; see `word_loss`."""
        return word_loss(where, hidden, labels, read_again(self.weight), self.bias)
