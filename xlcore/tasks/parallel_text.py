"""Texts of one or several languages as arrays, laid out as XLM's authors do (Conneau and Lample, 2019, section 3).

Axes as everywhere, batch first. A sentence stands between two `</s>`; `<s>` is never used.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xlcore.errors import ShapeError

Array = np.ndarray[Any, Any]
log = logging.getLogger(__name__)

# The ids that all vocabularies of XLM share; those below RESERVED are no words.
EOS, PAD, UNK, MASK, RESERVED = 1, 2, 3, 5, 14


@dataclass(frozen=True)
class Sentences:
    """A text as ids.

    Args:
        ids: all tokens, with `</s>` after each sentence.
        places: [n, 2], where each sentence begins and where its `</s>` stands.
    """

    ids: Array
    places: Array

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> Array:
        """Return the ids of a sentence without its `</s>`."""
        start, end = self.places[number]
        return self.ids[start:end]


def index_lines(lines: Iterable[str], encode: Callable[[str], Sequence[int]]) -> Sentences:
    """Turn a text, a sentence a line, into ids.

    Reserved words in it, other than `<unk>`, are left out with a warning.

    Args:
        encode: the ids of a line without special tokens, such as
            `lambda line: tokenizer.encode(line, add_special_tokens=False)`.
    """
    ids: list[int] = []
    places: list[tuple[int, int]] = []
    dropped = 0
    for line in lines:
        found = list(encode(line))
        kept = [index for index in found if index >= RESERVED or index == UNK]
        dropped += len(found) - len(kept)
        places.append((len(ids), len(ids) + len(kept)))
        ids += [*kept, EOS]
    if dropped:
        log.warning("index_lines: a text should hold no reserved words, got %d; they are left out", dropped)
    return Sentences(np.array(ids, "int64"), np.array(places, "int64").reshape(-1, 2))


def cut_stream(ids: Array, batch_size: int, length: int) -> Array:
    """Cut a text into batches, [count, B, T], whose rows go on from batch to batch.

    What is missing to whole batches is made up by `</s>` in front; each row begins with one. Sentences cross the
    borders of batches. The last token of each row is not used.

    Raises:
        ShapeError: for an empty text, or sizes that are not positive.
    """
    if min(batch_size, length, len(ids)) < 1:
        raise ShapeError(
            f"cut_stream: ids, batch_size and length must be at least 1, got {len(ids)}, {batch_size}, {length}"
        )
    count = -(-len(ids) // (batch_size * length))
    padded = np.full(count * batch_size * length, EOS, "int64")
    padded[len(padded) - len(ids) :] = ids
    rows = np.pad(padded.reshape(batch_size, -1), ((0, 0), (1, 0)), constant_values=EOS)[:, :-1]
    return rows.reshape(batch_size, count, length).swapaxes(0, 1)


def batch_sentences(sentences: Sequence[Array]) -> tuple[Array, Array]:
    """Return sentences between two `</s>` each, filled with `<pad>`, [B, T], and their lengths, [B]."""
    lengths = np.array([len(sentence) + 2 for sentence in sentences], "int64")
    ids = np.full((len(sentences), int(lengths.max(initial=0))), PAD, "int64")
    for row, sentence in zip(ids, sentences, strict=True):
        row[0] = row[len(sentence) + 1] = EOS
        row[1 : len(sentence) + 1] = sentence
    return ids, lengths


def cut_sentences(ids: Array, lengths: Array, most: int) -> tuple[Array, Array]:
    """Return sentences of at most `most` tokens; those that were cut end in `</s>` nevertheless."""
    cut = ids[:, :most].copy()
    cut[lengths > most, most - 1] = EOS
    return cut, np.minimum(lengths, most)


@dataclass(frozen=True)
class Joined:
    """Pairs of sentences in one row each, all [B, T] but `lengths`, [B]."""

    input_ids: Array
    lengths: Array
    position_ids: Array
    langs: Array


def join_pairs(
    first: tuple[Array, Array], second: tuple[Array, Array], langs: tuple[int, int], reset_positions: bool
) -> Joined:
    """Join sentences and their translations.

    Args:
        first, second: as `batch_sentences` gives them.
        langs: the number of the language of each.
        reset_positions: both keep their two `</s>` and the second counts its positions from 0, for training on
            translations; else the one between them belongs to both, is of the second's language, and positions go on.

    Raises:
        ShapeError: if there are not as many of both.
    """
    (one, one_lengths), (other, other_lengths) = first, second
    if len(one) != len(other):
        raise ShapeError(f"join_pairs: both must have as many sentences, got {len(one)} and {len(other)}")
    border = one_lengths if reset_positions else one_lengths - 1
    lengths = border + other_lengths
    columns = np.arange(int(lengths.max(initial=0)))
    behind = columns >= border[:, None]  # [B, T], true in the second sentence and in the padding
    ids = np.full(behind.shape, PAD, "int64")
    for row in range(len(one)):
        ids[row, : border[row]] = one[row, : border[row]]
        ids[row, border[row] : lengths[row]] = other[row, : other_lengths[row]]
    positions = np.where(behind & reset_positions, columns - border[:, None], columns)
    return Joined(ids, lengths, positions, np.where(behind, langs[1], langs[0]))
