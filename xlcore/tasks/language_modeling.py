"""Language modelling: from a long text to batches of consecutive segments."""

from typing import Any

import numpy as np

from xlcore.config import at_least, fitted
from xlcore.errors import ConfigError, ShapeError

Array = np.ndarray[Any, Any]


def most_words(config: Any, kind: str) -> int | None:
    """Return how many words a model with a head of that kind can read at once; None for any number."""
    if kind == "decoder_lm" and config.position_embedding_type == "absolute":
        return int(config.most_words)  # positions count from that of padding on
    return int(config.max_position_embeddings) if kind in ("word_lm", "decoder_lm") else None


def language_of(where: str, config: Any, lang: Any) -> int | None:
    """Return the number of the language of all words, `config.lang_id` if none is told; None for a model without.

    Raises:
        ConfigError: for a language that the model does not have.
    """
    if not getattr(config, "has_languages", False):
        if lang is not None:
            raise ConfigError(f"{where}: lang must be given for models with languages only, got {lang}")
        return None
    number: int = config.lang_id if lang is None else fitted(where, "lang", lang, at_least(0))
    if number >= config.n_langs:
        raise ConfigError(f"{where}: lang must lie in [0, n_langs={config.n_langs}), got {number}")
    return number


def stream_segments(ids: Any, batch_size: int, segment: int) -> dict[str, Array]:
    """Cut a text into parallel streams of consecutive segments, as the authors train and evaluate.

    The text becomes `batch_size` streams of equal length, which lie one below the other in every batch, so that a model
    that carries its memory from batch to batch reads each stream on. Each segment's labels are one longer than its
    input: the last position predicts the first word of the next segment.

    Args:
        ids: the text, one id a word.
        batch_size: B, the number of streams.
        segment: T, the length of a segment.

    Returns:
        `input_ids` [S B, T] and `labels` [S B, T + 1] for S segments a stream; batch s is rows s B to (s + 1) B - 1. Of
        each stream the end that fills no segment is left out, and of the text what fills no stream: fewer than
        B (T + 1) words in all.

    Raises:
        ShapeError: if the text is too short for one segment in every stream.
    """
    text = np.asarray(ids)
    if text.ndim != 1 or batch_size < 1 or segment < 1:
        shape = (list(text.shape), batch_size, segment)
        raise ShapeError(f"stream_segments: ids, batch_size, segment must be a row of ids and two sizes, got {shape}")
    steps = (len(text) // batch_size - 1) // segment
    if steps < 1:
        least = batch_size * (segment + 1)
        raise ShapeError(f"stream_segments: ids must be at least batch_size x (segment + 1) = {least}, got {len(text)}")
    streams = text[: len(text) // batch_size * batch_size].reshape(batch_size, -1)
    starts = segment * np.arange(steps)
    columns = starts[:, None] + np.arange(segment + 1)  # [S, T + 1]
    labels = streams[:, columns].swapaxes(0, 1).reshape(steps * batch_size, segment + 1)
    return {"input_ids": np.ascontiguousarray(labels[:, :-1]), "labels": labels}
