"""One table of embeddings for all words, and the scores of all words."""

from typing import Any

import keras
from keras import ops

from xl_tf.checks import require_ids
from xl_tf.layers.basic import parameter
from xl_tf.layers.shared_table import looked_up, read_again
from xl_tf.layers.word_loss import word_loss


class Embedding(keras.Layer):
    """A vector for each id.

    Args:
        count: V. size: D. padding: an id that learns nothing from where it is looked up.
    """

    def __init__(self, count: int, size: int, padding: int | None = None, *, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.count, self.padding = count, padding
        self.weight = parameter(self, "weight", count, size)
        self.built = True

    def call(self, ids: Any) -> Any:
        """Embed ids of any shape as [..., D].

        Raises:
            ShapeError: for an id outside the vocabulary, on the CPU.
        """
        require_ids("TFEmbedding", ids, self.count)
        return looked_up(self.weight, ops.cast(ids, "int32"), self.padding)


class WordScores(keras.Layer):
    """A score for each word: its row of a table times the hidden state, and its bias.

    Args:
        count: V. size: D. weight: the table of an embedding, to share it.
    """

    def __init__(self, count: int, size: int, weight: Any = None, *, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.weight = parameter(self, "weight", count, size) if weight is None else weight
        self.bias = parameter(self, "bias", count)
        self.built = True

    def call(self, hidden: Any) -> Any:
        """Score [..., D] as [..., V]."""
        rows = ops.reshape(hidden, (-1, hidden.shape[-1]))  # for "...d" TensorFlow makes a gradient [..., V, D] first
        scores = ops.einsum("pd,vd->pv", rows, read_again(self.weight)) + self.bias
        return ops.reshape(scores, (*ops.shape(hidden)[:-1], scores.shape[-1]))

    def mean_loss(self, where: str, hidden: Any, labels: Any) -> Any:
        """Return the mean loss of words: hidden [..., D], labels [...]; see `word_loss`."""
        return word_loss(where, hidden, labels, read_again(self.weight), self.bias)
