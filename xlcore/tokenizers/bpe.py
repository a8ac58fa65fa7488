"""Byte-pair encoding of words (Sennrich et al., 2016): the pair that was learnt first is joined first.

The last piece of a word ends in `</w>`.
"""

from collections.abc import Container, Iterable, Sequence
from itertools import pairwise

END = "</w>"


class BytePairs:
    """Split words into pieces by learnt merges.

    Args:
        merges: pairs of pieces, the one to join first in front; of a pair that comes twice the later place counts.
        known: pieces that a vocabulary has. If given, a joined piece that it lacks is split again, step by step, as
            fastBPE does with a vocabulary.
    """

    def __init__(self, merges: Iterable[tuple[str, str]], known: Container[str] | None = None):
        listed = list(merges)
        self._ranks = {pair: rank for rank, pair in enumerate(listed)}
        self._halves = {left + right: (left, right) for left, right in listed}
        self._known = known

    def __call__(self, word: str) -> list[str]:
        """Return the pieces of a word that is not empty."""
        pieces = [*word[:-1], word[-1] + END]
        while len(pieces) > 1:
            joined = self._join_best(pieces)
            if len(joined) == len(pieces):
                break
            pieces = joined
        if self._known is None:
            return pieces
        return [part for piece in pieces for part in self._split_unknown(piece)]

    def _join_best(self, pieces: Sequence[str]) -> list[str]:
        """Join every occurrence of the pair that was learnt first, from the left; nothing if none was learnt."""
        ranks = self._ranks
        pairs = list(pairwise(pieces))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            return list(pieces)
        joined: list[str] = []
        place = 0
        while place < len(pieces):
            if place < len(pairs) and pairs[place] == best:
                joined.append(best[0] + best[1])
                place += 2
            else:
                joined.append(pieces[place])
                place += 1
        return joined

    def _split_unknown(self, piece: str) -> list[str]:
        """Undo merges until the vocabulary has every part, or nothing is left to undo."""
        parts: list[str] = []
        open_ends = [piece]  # the leftmost on top; a merge of a merge of ... may be deeper than Python's stack
        while open_ends:
            part = open_ends.pop()
            if part in (self._known or ()) or part not in self._halves:
                parts.append(part)
            else:
                open_ends += reversed(self._halves[part])
        return parts
