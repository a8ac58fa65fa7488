"""Continuing texts: the loop around a model that scores the next words."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from xlcore.errors import ConfigError, ShapeError
from xlcore.tasks.beams import BeamSearch
from xlcore.tasks.generation import WHERE, GenerationOptions, choose_next, log_softmax, penalised

Array = np.ndarray[Any, Any]


class Reader(Protocol):
    """A model that reads texts that grow."""

    def read(self, texts: Array) -> Array:
        """Return the scores of next words, [B, V], for texts [B, T] that are a word longer than at the last call."""

    def choose(self, rows: Array) -> None:
        """Go on in row i with what has been read as row rows[i]."""


def continue_texts(
    rows: list[Array], options: GenerationOptions, begin: Callable[[], Reader], filling: int | None = None
) -> Array:
    """Continue texts, those of one length together, one length after the other.

    Args:
        rows: the texts, [T] each.
        options: what is asked for.
        begin: makes what reads texts of one length.
        filling: stands behind shorter texts where neither `pad_token_id` nor an end is told.

    Returns:
        [B R, T], R texts for each row, filled up on the right.

    Raises:
        ConfigError: where nothing is told that shorter texts could be filled up with.
        ShapeError: for scores that are no numbers.
    """
    groups: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(len(row), []).append(number)
    filling = next((each for each in (options.pad_token_id, *options.ends, filling) if each is not None), None)
    if filling is None and (len(groups) > 1 or options.stop):
        raise ConfigError(f"{WHERE}: pad_token_id must be given where texts can be of unequal length, got None")
    if isinstance(options.seed, list) and len(options.seed) != len(rows):
        raise ConfigError(f"{WHERE}: seed must be one, or one for each of {len(rows)} rows, got {len(options.seed)}")
    copies = options.num_return_sequences
    found: dict[int, Array] = {}
    for numbers in groups.values():
        texts, places = np.stack([rows[number] for number in numbers]), np.array(numbers)
        places = (copies * places[:, None] + np.arange(copies)).ravel()
        found.update(zip(places.tolist(), _continued(texts, places, options, begin), strict=True))
    filled = np.full((len(found), max(map(len, found.values()))), 0 if filling is None else filling, rows[0].dtype)
    for place, text in found.items():
        filled[place, : len(text)] = text
    return filled


def _continued(texts: Array, places: Array, options: GenerationOptions, begin: Callable[[], Reader]) -> list[Array]:
    """Return what becomes of texts [B, T], `num_return_sequences` for each."""
    reader = begin()  # first of all, for it refuses models that write nothing
    if options.max_new_tokens == 0:
        return list(np.repeat(texts, options.num_return_sequences, axis=0))
    if options.num_beams > 1:
        return _searched(texts, options, reader)
    return _chosen(texts, places, options, reader)


def _read(reader: Reader, texts: Array, step: int) -> Array:
    """Return the scores of next words, [B, V].

    Raises:
        ShapeError: for what is no number, among which no word is the likeliest.
    """
    scores = reader.read(texts)
    fine = scores < np.inf  # so is -inf, for words that cannot be
    if not fine.all():
        raise ShapeError(f"{WHERE}: the model's scores must be numbers, got {scores[~fine][0]} in step {step}")
    return scores


def _begun(texts: Array, copies: int, options: GenerationOptions, reader: Reader) -> tuple[Array, Array]:
    """Read texts [B, T] once and go on in several copies of each; return the scores of next words and the copies."""
    scores = _read(reader, texts, 1)
    options.require_words(scores.shape[-1])
    if copies == 1:
        return scores, texts
    rows = np.repeat(np.arange(len(texts)), copies)
    reader.choose(rows)
    return scores[rows], texts[rows]


def _chosen(texts: Array, places: Array, options: GenerationOptions, reader: Reader) -> list[Array]:
    """Continue texts [B, T] by the likeliest word or by chance."""
    copies, count = options.num_return_sequences, options.max_new_tokens
    draws = [options.chance(*divmod(int(place), copies)) for place in places]
    scores, texts = _begun(texts, copies, options, reader)
    T, ended = texts.shape[1], np.zeros(len(texts), bool)
    lengths = np.full(len(texts), T + count)
    for length in range(T + 1, T + count + 1):
        chances = np.array([draw.random() for draw in draws])
        scores = penalised(scores, texts, options.repetition_penalty)
        chosen = choose_next(scores, options.heat, options.top_k, options.top_p, chances)
        texts = np.concatenate([texts, chosen[:, None].astype(texts.dtype)], axis=1)
        if options.streamer is not None:
            options.streamer({int(places[row]): int(chosen[row]) for row in np.flatnonzero(~ended)})
        ends = options.ended(texts[:, T:]) & ~ended
        lengths[ends], ended = length, ended | ends
        if ended.all() or length == T + count:
            break
        scores = _read(reader, texts, length - T + 1)
    return [text[:length] for text, length in zip(texts, lengths, strict=True)]


def _searched(texts: Array, options: GenerationOptions, reader: Reader) -> list[Array]:
    """Continue texts [B, T] by beam search, `num_return_sequences` for each."""
    N, T = options.num_beams, texts.shape[1]
    starts, searches = texts, [BeamSearch(options) for _ in texts]
    scores, texts = _begun(texts, N, options, reader)
    for number in range(options.max_new_tokens):
        logs = penalised(log_softmax(scores), texts, options.repetition_penalty)
        both = zip(searches, np.split(logs, len(starts)), np.split(texts[:, T:], len(starts)), strict=True)
        beams, words = zip(*(search.advance(*each) for search, *each in both), strict=True)
        if all(search.done for search in searches) or number + 1 == options.max_new_tokens:
            break
        rows = np.concatenate([place * N + each for place, each in enumerate(beams)])
        chosen = np.concatenate(words)[:, None].astype(texts.dtype)
        texts = np.concatenate([texts[rows], chosen], axis=1)
        reader.choose(rows)
        scores = _read(reader, texts, number + 2)
    return [np.append(start, words) for start, search in zip(starts, searches, strict=True) for words in search.best()]
