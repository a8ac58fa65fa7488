"""How a vocabulary, sorted by frequency, falls into bins: shared by adaptive embeddings and adaptive softmax."""

from itertools import pairwise
from typing import Any

from xlcore.config import Unfit, whole
from xlcore.errors import ShapeError


def bins(vocab_size: int, d_embed: int, cutoffs: list[int], div_val: float) -> list[tuple[int, int, int]]:
    """Return for every bin of the vocabulary its first id, the id after its last, and its embedding width."""
    borders = pairwise([0, *cutoffs, vocab_size])
    return [(start, end, int(d_embed // div_val**number)) for number, (start, end) in enumerate(borders)]


def tables(vocab_size: int, d_embed: int, cutoffs: list[int], div_val: int) -> list[tuple[int, int]]:
    """Return size and width of every embedding table: one a bin, or one in all if all bins are equally wide."""
    if div_val == 1:
        return [(vocab_size, d_embed)]
    return [(end - start, width) for start, end, width in bins(vocab_size, d_embed, cutoffs, div_val)]


def count_of_words(where: str, k: Any, vocab_size: int) -> int:
    """Return how many words are asked for.

    Raises:
        ShapeError: unless that is a whole number in [1, vocab_size].
    """
    try:
        count = whole(k)
    except Unfit:
        count = 0
    if not 1 <= count <= vocab_size:
        raise ShapeError(f"{where}: k must be a whole number in [1, {vocab_size}], got {k!r}")
    return count
