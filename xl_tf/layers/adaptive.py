"""Embeddings and softmax that spend the less on a word the rarer it is."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from xl_tf.checks import require_ids, require_labels
from xl_tf.layers.basic import parameter
from xl_tf.layers.shared_table import looked_up, read_again
from xl_tf.layers.word_loss import entry_losses
from xl_tf.losses import inside, mean_over, told
from xl_tf.ops import precise
from xlcore.adaptive import bins, count_of_words, tables


class AdaptiveBin(keras.Layer):
    """One bin of the vocabulary: its table, the biases of its ids in an output, its projection to the hidden size.

    Args:
        size: the ids in its table, 0 if it stands in the table of the first bin. width: columns of the table.
        projected: D, or 0 for no projection. biased: whether each id has a bias.
        weight, projection: those of another bin, to share them.
    """

    def __init__(
        self,
        size: int,
        width: int,
        projected: int,
        *,
        biased: bool,
        weight: Any = None,
        projection: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(dtype=dtype)
        self.weight = (parameter(self, "weight", size, width) if weight is None else weight) if size else None
        self.bias = parameter(self, "bias", size) if size and biased else None
        own = parameter(self, "projection", projected, width) if projected and projection is None else projection
        self.projection = own if projected else None
        self.built = True


class Cluster(keras.Layer):
    """The entries of the head softmax that stand for whole bins."""

    def __init__(self, count: int, width: int, *, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.weight = parameter(self, "weight", count, width)
        self.bias = parameter(self, "bias", count)
        self.built = True


@keras.saving.register_keras_serializable("xlbridge")
class TFAdaptiveEmbedding(keras.Layer):
    """Embeddings that are the narrower the rarer a word is (Baevski and Auli, 2019, section 3), scaled by sqrt(D).

    Args:
        n_token: V. d_embed: columns of the first bin. d_proj: D. cutoffs: borders of the bins without 0 and V.
        div_val: what the width is divided by from bin to bin.
        sample_softmax: known from other implementations; without effect.
    """

    def __init__(
        self,
        n_token: int,
        d_embed: int,
        d_proj: int,
        cutoffs: list[int],
        div_val: int = 1,
        sample_softmax: bool = False,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__(dtype=dtype)
        self.n_token, self.d_proj = n_token, d_proj
        self.ends = bins(n_token, d_embed, list(cutoffs) if div_val > 1 else [], div_val)
        projected = d_proj if div_val > 1 or d_embed != d_proj else 0
        sizes = tables(n_token, d_embed, cutoffs, div_val)
        self.bins = [AdaptiveBin(size, width, projected, biased=False, dtype=dtype) for size, width in sizes]
        self.built = True

    def call(self, ids: Any) -> Any:
        """Embed ids of any shape as [..., D].

        Raises:
            ShapeError: for an id outside the vocabulary, where looking costs no wait; elsewhere it embeds to NaN.
        """
        require_ids("TFAdaptiveEmbedding", ids, self.n_token)
        ids, embedded = ops.cast(ids, "int32"), None
        for (start, end, _), each in zip(self.ends, self.bins, strict=True):
            rows = looked_up(each.weight, ops.clip(ids - start, 0, end - start - 1))
            rows = rows if each.projection is None else ops.matmul(rows, ops.transpose(each.projection))
            inside = ((ids >= start) & (ids < end))[..., None]
            embedded = ops.where(inside, rows, ops.zeros_like(rows) if embedded is None else embedded)
        known = ((ids >= 0) & (ids < self.n_token))[..., None]
        return ops.where(known, embedded * self.d_proj**0.5, ops.cast(float("nan"), embedded.dtype))


@keras.saving.register_keras_serializable("xlbridge")
class TFProjectedAdaptiveLogSoftmax(keras.Layer):
    """Adaptive softmax (Grave et al., 2017): a head over frequent words and clusters, a tail for each cluster.

    Takes what `TFAdaptiveEmbedding` takes, and:

    Args:
        keep_order: return losses by position and not by bin.
        embedding: the embedding to share with: its tables if `tie_weight`, its projections where `tie_projs` says so.
        plain: project only to the bins after the first, whose ids have no biases, as PyTorch's own layer has it.
    """

    def __init__(
        self,
        n_token: int,
        d_embed: int,
        d_proj: int,
        cutoffs: list[int],
        div_val: int = 1,
        keep_order: bool = False,
        embedding: TFAdaptiveEmbedding | None = None,
        tie_weight: bool = False,
        tie_projs: Sequence[bool] = (),
        plain: bool = False,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__(dtype=dtype)
        self.n_token, self.keep_order = n_token, keep_order
        self.ends = bins(n_token, d_embed, list(cutoffs), div_val)
        self.cluster = Cluster(len(cutoffs), d_embed, dtype=dtype) if cutoffs else None
        projected = d_proj if div_val > 1 or d_embed != d_proj else 0
        self.one_table = div_val == 1
        sizes = [size for size, _ in tables(n_token, d_embed, cutoffs, div_val)] + [0] * len(cutoffs)
        self.bins = []
        for number, (_, _, width) in enumerate(self.ends):
            shared = embedding.bins[0 if self.one_table else number] if embedding else None
            weight = shared.weight if shared and tie_weight else None
            projection = shared.projection if shared and tie_projs[number] else None
            columns, biased = (0 if plain and number == 0 else projected), not plain or number == 0
            given = {"weight": weight, "projection": projection, "dtype": dtype}
            self.bins.append(AdaptiveBin(sizes[number], width, columns, biased=biased, **given))
        self.built = True

    def call(self, hidden: Any, labels: Any = None, keep_order: bool = False) -> Any:
        """Return log-probabilities [P, V], or with labels the loss of each next one.

        Args:
            hidden: [..., T, D]. labels: [..., T]; position t predicts label t + 1; -100 is ignored.
            keep_order: see the class.

        Returns:
            Without labels [P, V] for all P positions. With them [P']: by position, zero where the label is ignored; or
            by bin, each in position order, zeros last, as other implementations have it.
        """
        D = hidden.shape[-1]
        if labels is None:
            return self.log_prob(ops.reshape(hidden, (-1, D)))
        following = ops.ravel(labels[..., 1:])
        losses = self.token_losses(ops.reshape(hidden[..., :-1, :], (-1, D)), following)
        if keep_order or self.keep_order or self.cluster is None:
            return losses
        number = ops.full_like(following, len(self.ends))
        for each, (start, end, _) in enumerate(self.ends):
            number = ops.where((following >= start) & (following < end), each, number)
        count = ops.shape(following)[0]
        positions = ops.arange(count, dtype=number.dtype)
        return ops.take(losses, ops.argsort(number * count + positions))

    def log_prob(self, hidden: Any) -> Any:
        """Return the log-probability of every id, [..., V], for hidden states [..., D]."""
        head = self._head(hidden)
        shortlist = self.ends[0][1]
        parts = [head[..., :shortlist]]
        for number in range(1, len(self.ends)):
            entry = head[..., shortlist + number - 1, None]
            parts.append(entry + self._tail(hidden, number))
        return ops.cast(ops.concatenate(parts, axis=-1), hidden.dtype)

    def token_losses(self, hidden: Any, labels: Any) -> Any:
        """Return -log p(label), [P], for hidden [P, D] and labels [P]: zero for -100, NaN for what else is no word."""
        shortlist = self.ends[0][1]
        entry = ops.clip(labels, 0, shortlist - 1)
        for number, (start, end, _) in enumerate(self.ends[1:]):
            entry = ops.where((labels >= start) & (labels < end), shortlist + number, entry)
        known = (labels >= 0) & (labels < self.n_token)
        entries = [ops.where(known, entry, -1)]
        for start, end, _ in self.ends[1:]:
            inside = (labels >= start) & (labels < end)
            entries.append(ops.where(inside, labels - start, -1))
        states = [_projected(hidden, each) for each in self.bins]
        losses = entry_losses(states, entries, *self._tables(), [0, *(end for _, end, _ in self.ends)])
        return told(losses, labels, known)

    def mean_loss(self, where: str, hidden: Any, labels: Any) -> Any:
        """Return the mean loss of words: hidden [..., D], labels [...]; nothing is shifted, -100 is ignored."""
        require_labels(where, labels, self.n_token)
        losses = self.token_losses(ops.reshape(hidden, (-1, hidden.shape[-1])), ops.ravel(labels))
        return mean_over(losses, inside(labels, self.n_token))

    def likeliest(self, hidden: Any, k: int = 1) -> tuple[Any, Any]:
        """Return the log-probabilities of the k likeliest ids and these ids, [..., k], for hidden states [..., D].

        They are those of `log_prob`. No word is likelier than its cluster: a tail is computed only if there is a
        position where its cluster is as likely as the k likeliest words so far.

        Raises:
            ShapeError: unless k is a whole number in [1, V].
        """
        k = count_of_words("likeliest", k, self.n_token)
        head, shortlist = self._head(hidden), self.ends[0][1]
        values, ids = _best(head[..., :shortlist], min(k, shortlist))
        missing = [[0, 0]] * (len(hidden.shape) - 1) + [[0, k - min(k, shortlist)]]
        values, ids = ops.pad(values, missing, constant_values=-float("inf")), ops.pad(ids, missing)
        clusters = head[..., shortlist:]
        wanted = clusters >= values[..., -1:]  # [..., C]
        for number in range(1, len(self.ends)):
            entry = clusters[..., number - 1, None]

            def looked_into(number: int = number, entry: Any = entry, values: Any = values, ids: Any = ids) -> Any:
                tail, places = _best(entry + self._tail(hidden, number), min(k, self._size(number)))
                both = ops.concatenate([values, tail], axis=-1)
                names = ops.concatenate([ids, places + self.ends[number][0]], axis=-1)
                best, which = _best(both, k)
                return best, ops.take_along_axis(names, which, axis=-1)

            kept = (values, ids)
            values, ids = ops.cond(ops.any(wanted[..., number - 1]), looked_into, lambda kept=kept: kept)
        return ops.cast(values, hidden.dtype), ids

    def _head(self, hidden: Any) -> Any:
        """Return log-probabilities of the frequent ids and of the clusters, [..., cutoffs[0] + C]."""
        weight, bias = self._table(0)
        states = _projected(hidden, self.bins[0])
        scores = _linear(states, weight, bias)
        if self.cluster is not None:  # scores are beside each other sooner than tables
            scores = ops.concatenate([scores, _linear(states, self.cluster.weight, self.cluster.bias)], axis=-1)
        return _log_softmax(scores)

    def _tail(self, hidden: Any, number: int) -> Any:
        """Return log-probabilities within one cluster."""
        weight, bias = self._table(number)
        scores = _linear(_projected(hidden, self.bins[number]), weight, bias)
        return _log_softmax(scores)

    def _table(self, number: int) -> tuple[Any, Any]:
        """Return the rows and biases of one bin, which may be a part of the one table of all."""
        if not self.one_table:
            return self.bins[number].weight, self.bins[number].bias
        start, end, _ = self.ends[number]
        return self.bins[0].weight[start:end], self.bins[0].bias[start:end]

    def _tables(self) -> tuple[list[Any], list[Any]]:
        """Return the tables and the biases of all bins, as `entry_losses` takes them; what has no biases has zeros."""
        tables = [each for each in self.bins if each.weight is not None] + ([self.cluster] if self.cluster else [])
        weights = [read_again(each.weight) for each in tables]
        return weights, [ops.zeros(each.weight.shape[:1]) if each.bias is None else each.bias for each in tables]

    def _size(self, number: int) -> int:
        """Return how many ids a bin has."""
        start, end, _ = self.ends[number]
        return end - start


def _projected(hidden: Any, each: AdaptiveBin) -> Any:
    return hidden if each.projection is None else ops.matmul(hidden, each.projection)


def _linear(values: Any, weight: Any, bias: Any) -> Any:
    product = ops.matmul(values, ops.transpose(weight))
    return product if bias is None else product + bias


def _log_softmax(logits: Any) -> Any:
    return ops.log_softmax(ops.cast(logits, precise(logits.dtype)))


def _best(values: Any, k: int) -> tuple[Any, Any]:
    """Return the k largest of each row and their places."""
    best, places = ops.top_k(values, k)
    return best, ops.cast(places, "int32")
