"""What is read from a whole text: its summary in one vector, and answers by beam search."""

from typing import Any

import keras
from keras import ops

from xl_tf.checks import require_ids
from xl_tf.layers.basic import ACTIVATIONS, layer_norm, linear
from xl_tf.losses import inside, mean_over, span_loss
from xl_tf.ops import precise, softmax
from xlcore.errors import ShapeError

NO_ANSWER = -1e30  # score of a position that cannot be part of an answer


class SequenceSummary(keras.Layer):
    """One vector for a text: one position of it or their mean, a linear map, an activation (`config.summary_...`).

    Args:
        size: D. outputs: size of the vector if it is mapped.
    """

    def __init__(self, config: Any, size: int, outputs: int, *, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.kind = config.summary_type
        self.projection = linear(size, outputs, dtype=dtype) if config.summary_use_proj else None
        self.activation = ACTIVATIONS[config.summary_activation or "linear"]
        self.first_dropout = keras.layers.Dropout(config.summary_first_dropout, dtype=dtype)
        self.last_dropout = keras.layers.Dropout(config.summary_last_dropout, dtype=dtype)
        self.built = True

    def call(self, hidden: Any) -> Any:
        """Summarise [B, P, D] as [B, D]. `"cls_index"` without an index is the last position; a mean has them all."""
        if self.kind == "mean":
            vector = ops.mean(hidden, axis=1)
        else:
            vector = hidden[:, 0 if self.kind == "first" else -1]
        vector = self.first_dropout(vector)
        if self.projection is not None:
            vector = self.projection(vector)
        return self.last_dropout(self.activation(vector))


class StartScores(keras.Layer):
    """How likely an answer starts at each position."""

    def __init__(self, size: int, *, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.score = linear(size, 1, dtype=dtype)
        self.built = True

    def call(self, hidden: Any) -> Any:
        """Score [B, P, D] as [B, P]."""
        return self.score(hidden)[..., 0]


class EndScores(keras.Layer):
    """How likely an answer ends at each position, given where it starts."""

    def __init__(self, size: int, epsilon: float, *, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.inner = linear(2 * size, size, dtype=dtype)
        self.norm = layer_norm(size, epsilon, dtype=dtype)
        self.score = linear(size, 1, dtype=dtype)
        self.built = True

    def call(self, hidden: Any, start: Any) -> Any:
        """Score positions, [B, P, D], for the states of starts, [B, A, D], as [B, P, A]."""
        # the linear map of both, without writing both beside each other A times
        D = hidden.shape[-1]
        by_position = ops.matmul(hidden, self.inner.kernel[:D]) + self.inner.bias
        by_start = ops.matmul(start, self.inner.kernel[D:])
        inner = ops.tanh(by_position[:, :, None] + by_start[:, None])  # [B, P, A, D]
        return self.score(self.norm(inner))[..., 0]


class AnswerScore(keras.Layer):
    """How likely there is no answer."""

    def __init__(self, size: int, dropout: float, *, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.inner = linear(2 * size, size, dtype=dtype)
        self.score = linear(size, 1, bias=False, dtype=dtype)
        self.dropout = keras.layers.Dropout(dropout, dtype=dtype)
        self.built = True

    def call(self, start: Any, summary: Any) -> Any:
        """Score the state of the start and that of the text, [B, D] each, as [B]."""
        inner = ops.tanh(self.inner(ops.concatenate([start, summary], axis=-1)))
        return self.score(self.dropout(inner))[..., 0]


# ------------------------------------------------------------------------------------------- answers by beam search


def answer_loss(
    where: str,
    scorers: tuple[StartScores, EndScores, AnswerScore],
    hidden: Any,
    start_positions: Any,
    end_positions: Any,
    is_impossible: Any,
    cls_index: Any,
    p_mask: Any,
    soft_start: bool,
) -> Any:
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
    P = ops.shape(hidden)[1]
    counted = inside(start_positions, P)
    state = _read(hidden, start_positions)  # [B, D]
    start_scores = _without(start(hidden), p_mask)
    end_scores = _without(end(hidden, state[:, None])[..., 0], p_mask)
    loss = span_loss(where, start_scores, end_scores, start_positions, ops.where(counted, end_positions, P))
    if is_impossible is None or cls_index is None:
        return loss
    require_ids(where, cls_index, P, "cls_index")
    if soft_start:
        state = _expected(ops.softmax(start_scores), hidden)
    scores = ops.cast(answer(state, _read(hidden, cls_index)), start_scores.dtype)
    losses = ops.binary_crossentropy(ops.cast(is_impossible, scores.dtype), scores, from_logits=True)
    return loss + mean_over(ops.where(counted, losses, ops.cast(0.0, losses.dtype)), counted) / 2


def best_answers(
    where: str,
    scorers: tuple[StartScores, EndScores, AnswerScore],
    hidden: Any,
    cls_index: Any,
    p_mask: Any,
    tops: tuple[int, int],
    start_major: bool,
) -> dict[str, Any]:
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
    P = ops.shape(hidden)[1]
    if isinstance(P, int) and max(tops) > P:
        raise ShapeError(f"{where}: start_n_top and end_n_top must be at most the {P} positions, got {max(tops)}")
    probabilities = softmax(_without(start(hidden), p_mask))
    start_top, start_index = _best(probabilities, tops[0])  # [B, A]
    states = _read(hidden, start_index)  # [B, A, D]
    by_start = ops.transpose(end(hidden, states), (0, 2, 1))  # [B, A, P]
    by_start = _without(by_start, None if p_mask is None else p_mask[:, None])
    end_top, end_index = _best(softmax(by_start), tops[1])  # [B, A, E]
    if not start_major:
        end_top, end_index = (ops.transpose(each, (0, 2, 1)) for each in (end_top, end_index))  # [B, E, A]
    if cls_index is not None:
        require_ids(where, cls_index, P, "cls_index")
    text = hidden[:, -1] if cls_index is None else _read(hidden, cls_index)
    return {
        "start_top_log_probs": ops.cast(start_top, hidden.dtype),
        "start_top_index": start_index,
        "end_top_log_probs": ops.cast(_flat(end_top), hidden.dtype),
        "end_top_index": _flat(end_index),
        "cls_logits": answer(_expected(probabilities, hidden), text),
    }


def _flat(values: Any) -> Any:
    """Turn [B, E, A] into [B, E A]."""
    return ops.reshape(values, (ops.shape(values)[0], values.shape[1] * values.shape[2]))


def _without(scores: Any, p_mask: Any) -> Any:
    """Return scores in at least float32, so low where `p_mask` is not 0 that no answer stands there."""
    scores = ops.cast(scores, precise(scores.dtype))
    if p_mask is None:
        return scores
    return ops.where(ops.cast(p_mask, "float32") > 0, ops.convert_to_tensor(NO_ANSWER, scores.dtype), scores)


def _read(hidden: Any, positions: Any) -> Any:
    """Return the states, [B, D] or [B, A, D], at positions [B] or [B, A] of [B, P, D]; the nearest of those outside."""
    places = ops.clip(ops.cast(positions, "int32"), 0, ops.shape(hidden)[1] - 1)
    if len(positions.shape) == 1:
        return ops.take_along_axis(hidden, places[:, None, None], axis=1)[:, 0]
    return ops.take_along_axis(hidden, places[..., None], axis=1)


def _expected(probabilities: Any, hidden: Any) -> Any:
    """Return the mean [B, D] of states [B, P, D] by their probabilities [B, P]."""
    return ops.einsum("bp,bpd->bd", ops.cast(probabilities, hidden.dtype), hidden)


def _best(probabilities: Any, count: int) -> tuple[Any, Any]:
    """Return the largest entries of each row and their places; of equal ones the first ones."""
    values, places = ops.top_k(probabilities, count)
    return values, places
