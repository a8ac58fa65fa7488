"""Embeddings and softmax that spend the less on a word the rarer it is."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xl_torch.checks import require_ids, require_labels
from xl_torch.layers.basic import parameter
from xl_torch.layers.shared_table import looked_up, read_again
from xl_torch.layers.word_loss import entry_losses
from xl_torch.losses import inside, mean_over, told
from xlcore.adaptive import bins, count_of_words, tables


class AdaptiveBin(nn.Module):
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
        weight: nn.Parameter | None = None,
        projection: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        self.weight = (parameter(size, width) if weight is None else weight) if size else None
        self.bias = parameter(size) if size and biased else None
        self.projection = (parameter(projected, width) if projection is None else projection) if projected else None


class Cluster(nn.Module):
    """The entries of the head softmax that stand for whole bins."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = parameter(count, width)
        self.bias = parameter(count)


class AdaptiveEmbedding(nn.Module):
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
    ) -> None:
        super().__init__()
        self.n_token, self.d_proj = n_token, d_proj
        self.ends = bins(n_token, d_embed, list(cutoffs) if div_val > 1 else [], div_val)
        projected = d_proj if div_val > 1 or d_embed != d_proj else 0
        sizes = tables(n_token, d_embed, cutoffs, div_val)
        self.bins = nn.ModuleList(AdaptiveBin(size, width, projected, biased=False) for size, width in sizes)

    def forward(self, ids: Tensor) -> Tensor:
        """Embed ids of any shape as [..., D].

        Raises:
            ShapeError: for an id outside the vocabulary, where looking costs no wait; elsewhere it embeds to NaN.
        """
        require_ids("AdaptiveEmbedding", ids, self.n_token)
        ids, embedded = ids.long(), None
        for (start, end, _), each in zip(self.ends, self.bins, strict=True):
            rows = looked_up(each.weight, (ids - start).clamp(0, end - start - 1))
            rows = rows if each.projection is None else F.linear(rows, each.projection)
            inside = ((ids >= start) & (ids < end))[..., None]
            embedded = torch.where(inside, rows, torch.zeros_like(rows) if embedded is None else embedded)
        known = ((ids >= 0) & (ids < self.n_token))[..., None]
        return torch.where(known, embedded * self.d_proj**0.5, torch.nan)


class ProjectedAdaptiveLogSoftmax(nn.Module):
    """Adaptive softmax (Grave et al., 2017): a head over frequent words and clusters, a tail for each cluster.

    Takes what `AdaptiveEmbedding` takes, and:

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
        embedding: AdaptiveEmbedding | None = None,
        tie_weight: bool = False,
        tie_projs: Sequence[bool] = (),
        plain: bool = False,
    ) -> None:
        super().__init__()
        self.n_token, self.keep_order = n_token, keep_order
        self.ends = bins(n_token, d_embed, list(cutoffs), div_val)
        self.cluster = Cluster(len(cutoffs), d_embed) if cutoffs else None
        projected = d_proj if div_val > 1 or d_embed != d_proj else 0
        self.one_table = div_val == 1
        sizes = [size for size, _ in tables(n_token, d_embed, cutoffs, div_val)] + [0] * len(cutoffs)
        self.bins = nn.ModuleList()
        for number, (_, _, width) in enumerate(self.ends):
            shared = embedding.bins[0 if self.one_table else number] if embedding else None
            weight = shared.weight if shared and tie_weight else None
            projection = shared.projection if shared and tie_projs[number] else None
            columns, biased = (0 if plain and number == 0 else projected), not plain or number == 0
            each = AdaptiveBin(sizes[number], width, columns, biased=biased, weight=weight, projection=projection)
            self.bins.append(each)

    def forward(self, hidden: Tensor, labels: Tensor | None = None, keep_order: bool = False) -> Tensor:
        """Return log-probabilities [P, V], or with labels the loss of each next one.

        Args:
            hidden: [..., T, D]. labels: [..., T]; position t predicts label t + 1; -100 is ignored.
            keep_order: see the class.

        Returns:
            Without labels [P, V] for all P positions. With them [P']: by position, zero where the label is ignored; or
            by bin, each in position order, zeros last, as other implementations have it.
        """
        if labels is None:
            return self.log_prob(hidden.flatten(0, -2))
        following = labels[..., 1:].flatten()
        losses = self.token_losses(hidden[..., :-1, :].flatten(0, -2), following)
        if keep_order or self.keep_order or self.cluster is None:
            return losses
        number = torch.full_like(following, len(self.ends))
        for each, (start, end, _) in enumerate(self.ends):
            number = torch.where((following >= start) & (following < end), each, number)
        positions = torch.arange(len(following), device=following.device)
        return losses[(number * len(following) + positions).argsort()]

    def log_prob(self, hidden: Tensor) -> Tensor:
        """Return the log-probability of every id, [..., V], for hidden states [..., D]."""
        head = self._head(hidden)
        shortlist = self.ends[0][1]
        parts = [head[..., :shortlist]]
        for number in range(1, len(self.ends)):
            entry = head[..., shortlist + number - 1, None]
            parts.append(entry + self._tail(hidden, number))
        return torch.cat(parts, dim=-1).to(hidden.dtype)

    def token_losses(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Return -log p(label), [P], for hidden [P, D] and labels [P]: zero for -100, NaN for what else is no word."""
        shortlist = self.ends[0][1]
        entry = labels.clamp(0, shortlist - 1)
        for number, (start, end, _) in enumerate(self.ends[1:]):
            entry = torch.where((labels >= start) & (labels < end), shortlist + number, entry)
        known = (labels >= 0) & (labels < self.n_token)
        entries = [torch.where(known, entry, -1)]
        for start, end, _ in self.ends[1:]:
            inside = (labels >= start) & (labels < end)
            entries.append(torch.where(inside, labels - start, -1))
        states = [_projected(hidden, each) for each in self.bins]
        losses = entry_losses(states, entries, *self._tables(), [0, *(end for _, end, _ in self.ends)])
        return told(losses, labels, known)

    def mean_loss(self, where: str, hidden: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of words: hidden [..., D], labels [...]; nothing is shifted, -100 is ignored."""
        require_labels(where, labels, self.n_token)
        losses = self.token_losses(hidden.flatten(0, -2), labels.flatten())
        return mean_over(losses, inside(labels, self.n_token))

    def likeliest(self, hidden: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities of the k likeliest ids and these ids, [..., k], for hidden states [..., D].

        They are those of `log_prob`. No word is likelier than its cluster: a tail is computed only for the positions
        where its cluster is as likely as the k likeliest words so far.

        Raises:
            ShapeError: unless k is a whole number in [1, V].
        """
        k = count_of_words("likeliest", k, self.n_token)
        if torch.compiler.is_compiling():  # shapes must not depend on what is likely
            return _best(self.log_prob(hidden), k)
        rows = hidden.reshape(-1, hidden.shape[-1])
        head, shortlist = self._head(rows), self.ends[0][1]
        values, ids = _best(head[:, :shortlist], min(k, shortlist))
        values, ids = F.pad(values, (0, k - values.shape[1]), value=-torch.inf), F.pad(ids, (0, k - ids.shape[1]))
        clusters = head[:, shortlist:].T  # [C, P]
        wanted = clusters >= values[:, -1]
        for number, count in enumerate(wanted.sum(-1).tolist() if len(wanted) else (), 1):
            if count:
                chosen = wanted[number - 1].int().argsort(descending=True, stable=True)[:count]
                entry = clusters[number - 1, chosen, None]
                tail, places = _best(entry + self._tail(rows[chosen], number), min(k, self._size(number)))
                both = torch.cat([values[chosen], tail], dim=-1)
                names = torch.cat([ids[chosen], places + self.ends[number][0]], dim=-1)
                best, which = _best(both, k)
                values, ids = values.index_copy(0, chosen, best), ids.index_copy(0, chosen, names.gather(-1, which))
        shape = (*hidden.shape[:-1], k)
        return values.to(hidden.dtype).reshape(shape), ids.reshape(shape)

    def _head(self, hidden: Tensor) -> Tensor:
        """Return log-probabilities of the frequent ids and of the clusters, [..., cutoffs[0] + C]."""
        weight, bias = self._table(0)
        states = _projected(hidden, self.bins[0])
        scores = F.linear(states, weight, bias)
        if self.cluster is not None:  # scores are beside each other sooner than tables
            scores = torch.cat([scores, F.linear(states, self.cluster.weight, self.cluster.bias)], dim=-1)
        return _log_softmax(scores)

    def _tail(self, hidden: Tensor, number: int) -> Tensor:
        """Return log-probabilities within one cluster."""
        weight, bias = self._table(number)
        scores = F.linear(_projected(hidden, self.bins[number]), weight, bias)
        return _log_softmax(scores)

    def _table(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the rows and biases of one bin, which may be a part of the one table of all."""
        if not self.one_table:
            return self.bins[number].weight, self.bins[number].bias
        start, end, _ = self.ends[number]
        return self.bins[0].weight[start:end], self.bins[0].bias[start:end]

    def _tables(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the tables and the biases of all bins, as `entry_losses` takes them; what has no biases has zeros."""
        tables = [each for each in self.bins if each.weight is not None] + ([self.cluster] if self.cluster else [])
        weights = [read_again(each.weight) for each in tables]
        return weights, [each.weight.new_zeros(len(each.weight)) if each.bias is None else each.bias for each in tables]

    def _size(self, number: int) -> int:
        """Return how many ids a bin has."""
        start, end, _ = self.ends[number]
        return end - start


def _projected(hidden: Tensor, each: AdaptiveBin) -> Tensor:
    return hidden if each.projection is None else hidden @ each.projection


def _log_softmax(logits: Tensor) -> Tensor:
    return F.log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def _best(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row and their places; of one, the first of equals."""
    return values.max(-1, keepdim=True) if k == 1 else values.topk(k)
