"""What is read from a whole text: its summary in one vector, and answers by beam search."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xl_torch.checks import require_ids
from xl_torch.layers.basic import ACTIVATIONS, layer_norm, linear
from xl_torch.losses import inside, mean_over, span_loss
from xlcore.errors import ShapeError

NO_ANSWER = -1e30  # score of a position that cannot be part of an answer


class SequenceSummary(nn.Module):
    """One vector for a text: one position of it or their mean, a linear map, an activation (`config.summary_...`).

    Args:
        size: D. outputs: size of the vector if it is mapped.
    """

    def __init__(self, config: Any, size: int, outputs: int) -> None:
        super().__init__()
        self.kind = config.summary_type
        self.projection = linear(size, outputs) if config.summary_use_proj else None
        self.activation = ACTIVATIONS[config.summary_activation or "linear"]
        self.first_dropout = nn.Dropout(config.summary_first_dropout)
        self.last_dropout = nn.Dropout(config.summary_last_dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """Summarise [B, P, D] as [B, D]. `"cls_index"` without an index is the last position; a mean has them all."""
        if self.kind == "mean":
            vector = hidden.mean(1)
        else:
            vector = hidden[:, 0 if self.kind == "first" else -1]
        vector = self.first_dropout(vector)
        if self.projection is not None:
            vector = self.projection(vector)
        return self.last_dropout(self.activation(vector))


class StartScores(nn.Module):
    """How likely an answer starts at each position."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.score = linear(size, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Score [B, P, D] as [B, P]."""
        return self.score(hidden)[..., 0]


class EndScores(nn.Module):
    """How likely an answer ends at each position, given where it starts."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.inner = linear(2 * size, size)
        self.norm = layer_norm(size, epsilon)
        self.score = linear(size, 1)

    def forward(self, hidden: Tensor, start: Tensor) -> Tensor:
        """Score positions, [B, P, D], for the states of starts, [B, A, D], as [B, P, A]."""
        # the linear map of both, without writing both beside each other A times
        D = hidden.shape[-1]
        by_position = F.linear(hidden, self.inner.weight[:, :D], self.inner.bias)
        by_start = F.linear(start, self.inner.weight[:, D:])
        inner = torch.tanh(by_position[:, :, None] + by_start[:, None])  # [B, P, A, D]
        return self.score(self.norm(inner))[..., 0]


class AnswerScore(nn.Module):
    """How likely there is no answer."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.inner = linear(2 * size, size)
        self.score = linear(size, 1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, start: Tensor, summary: Tensor) -> Tensor:
        """Score the state of the start and that of the text, [B, D] each, as [B]."""
        inner = torch.tanh(self.inner(torch.cat([start, summary], dim=-1)))
        return self.score(self.dropout(inner))[..., 0]


# ------------------------------------------------------------------------------------------- answers by beam search


def answer_loss(
    where: str,
    scorers: tuple[StartScores, EndScores, AnswerScore],
    hidden: Tensor,
    start_positions: Tensor,
    end_positions: Tensor,
    is_impossible: Tensor | None,
    cls_index: Tensor | None,
    p_mask: Tensor | None,
    soft_start: bool,
) -> Tensor:
    """Return the loss of a reader of answers: the mean of that of starts and that of ends, given the labelled start.

    With `is_impossible` and `cls_index` half the loss of telling whether there is an answer comes to it. Examples whose
    start lies outside of the text count for nothing.

    Args:
        where: the model, for errors.
        scorers: of starts, ends, and an answer at all.
        hidden: [B, P, D]. start_positions, end_positions, is_impossible, cls_index: [B]. p_mask: [B, P].
        soft_start: see `XLNetConfig`.
    """
    start, end, answer = scorers
    P = hidden.shape[1]
    counted = inside(start_positions, P)
    state = _read(hidden, start_positions)  # [B, D]
    start_scores = _without(start(hidden), p_mask)
    end_scores = _without(end(hidden, state[:, None])[..., 0], p_mask)
    loss = span_loss(where, start_scores, end_scores, start_positions, torch.where(counted, end_positions, P))
    if is_impossible is None or cls_index is None:
        return loss
    require_ids(where, cls_index, P, "cls_index")
    if soft_start:
        state = _expected(start_scores.softmax(-1), hidden)
    scores = answer(state, _read(hidden, cls_index)).to(start_scores.dtype)
    losses = F.binary_cross_entropy_with_logits(scores, is_impossible.to(scores.dtype), reduction="none")
    return loss + mean_over(torch.where(counted, losses, 0.0), counted) / 2


def best_answers(
    where: str,
    scorers: tuple[StartScores, EndScores, AnswerScore],
    hidden: Tensor,
    cls_index: Tensor | None,
    p_mask: Tensor | None,
    tops: tuple[int, int],
    start_major: bool,
) -> dict[str, Tensor]:
    """Find the likeliest starts, and the likeliest ends for each; equally likely ones by position.

    Args:
        where: the model, for errors.
        scorers: of starts, ends, and an answer at all.
        hidden: [B, P, D]. cls_index: [B], the last position if None. p_mask: [B, P].
        tops: how many starts A, and how many ends for each.
        start_major: which of the two the ends are ordered by first; see `XLNetForQuestionAnsweringOutput`.

    Returns:
        The fields of the output: probabilities and positions of starts [B, A] and of ends [B, Z], and scores [B] that
        there is no answer.
    """
    start, end, answer = scorers
    P = hidden.shape[1]
    if max(tops) > P:
        raise ShapeError(f"{where}: start_n_top and end_n_top must be at most the {P} positions, got {max(tops)}")
    probabilities = _without(start(hidden), p_mask).softmax(-1)
    start_top, start_index = _best(probabilities, tops[0])  # [B, A]
    states = _read(hidden, start_index)  # [B, A, D]
    by_start = end(hidden, states).transpose(1, 2)  # [B, A, P]
    by_start = _without(by_start, None if p_mask is None else p_mask[:, None])
    end_top, end_index = _best(by_start.softmax(-1), tops[1])  # [B, A, E]
    if not start_major:
        end_top, end_index = (each.transpose(1, 2) for each in (end_top, end_index))  # [B, E, A]
    if cls_index is not None:
        require_ids(where, cls_index, P, "cls_index")
    text = hidden[:, -1] if cls_index is None else _read(hidden, cls_index)
    return {
        "start_top_log_probs": start_top.to(hidden.dtype),
        "start_top_index": start_index,
        "end_top_log_probs": _flat(end_top).to(hidden.dtype),
        "end_top_index": _flat(end_index),
        "cls_logits": answer(_expected(probabilities, hidden), text),
    }


def _flat(values: Tensor) -> Tensor:
    """Turn [B, E, A] into [B, E A]."""
    return values.flatten(1)


def _without(scores: Tensor, p_mask: Tensor | None) -> Tensor:
    """Return scores in at least float32, so low where `p_mask` is not 0 that no answer stands there."""
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if p_mask is None:
        return scores
    return torch.where(p_mask > 0, NO_ANSWER, scores)


def _read(hidden: Tensor, positions: Tensor) -> Tensor:
    """Return the states, [B, D] or [B, A, D], at positions [B] or [B, A] of [B, P, D]; the nearest of those outside."""
    places = positions.long().clamp(0, hidden.shape[1] - 1)
    if positions.dim() == 1:
        return hidden.gather(1, places[:, None, None].expand(-1, -1, hidden.shape[-1]))[:, 0]
    return hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))


def _expected(probabilities: Tensor, hidden: Tensor) -> Tensor:
    """Return the mean [B, D] of states [B, P, D] by their probabilities [B, P]."""
    return torch.einsum("bp,bpd->bd", probabilities.to(hidden.dtype), hidden)


def _best(probabilities: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the largest entries of each row and their places; of equal ones the first ones."""
    values, places = probabilities.sort(dim=-1, descending=True, stable=True)
    return values[..., :count], places[..., :count]
