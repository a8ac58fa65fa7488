"""Beam search: of the continuations of a text those are kept whose words are likeliest together."""

from typing import Any

import numpy as np

from xlcore.errors import ConfigError
from xlcore.tasks.generation import WHERE, GenerationOptions

Array = np.ndarray[Any, Any]


class BeamSearch:
    """The search for the continuations of one text, by the rules of transformers.

    In each step all words are tried behind each of N beams. The N best that do not end are gone on from; of those that
    end, whoever is among the N best of all is kept. What is kept counts by its score: the sum of the log-probabilities
    of its words / (their number ** `length_penalty`).

    Attributes:
        totals: [N], the sum of log-probabilities of each beam, -inf for one that is none; all start from one.
        kept: scores and words of what has ended, the N best.
        done: whether nothing more is kept.
    """

    def __init__(self, options: GenerationOptions) -> None:
        self.options = options
        self.totals = np.full(options.num_beams, -np.inf)
        self.totals[0] = 0.0
        self.kept: list[tuple[float, Array]] = []
        self.done = False

    def advance(self, logs: Array, written: Array) -> tuple[Array, Array]:
        """Try all next words.

        Args:
            logs: [N, V], their log-probabilities.
            written: [N, n], the words of each beam so far.

        Returns:
            [N] beams and [N] words: from which to go on, and with which word.
        """
        N, V = logs.shape
        sums = (self.totals[:, None] + logs).ravel()
        tried = _highest(sums, max(2, 1 + len(self.options.last_words())) * N)  # so many that N do not end
        beams, words = np.divmod(tried, V)
        texts = np.concatenate([written[beams], words[:, None]], axis=1)
        real, n = np.isfinite(sums[tried]), texts.shape[1]
        ended = self.options.ended(texts) | (n == self.options.max_new_tokens)
        if not self.done:
            for place in np.flatnonzero((ended & real)[:N]):
                self.kept.append((self._score(sums[tried[place]], n), texts[place]))
            self.kept = sorted(self.kept, key=lambda each: -each[0])[:N]
        following = np.argsort(ended | ~real, kind="stable")[:N]
        self.totals = np.where((ended | ~real)[following], -np.inf, sums[tried][following])
        self.done = self.done or not self._can_improve(n)
        return beams[following], words[following]

    def _score(self, total: float, n: int) -> float:
        return float(total / float(n) ** self.options.length_penalty)

    def _can_improve(self, n: int) -> bool:
        """Return whether more is to be kept: N texts, or as `early_stopping` says better ones than the worst."""
        if len(self.kept) < self.options.num_beams or self.options.early_stopping is True:
            return bool(len(self.kept) < self.options.num_beams and np.isfinite(self.totals[0]))
        longest = self.options.early_stopping == "never" and self.options.length_penalty > 0
        best = self._score(self.totals[0], self.options.max_new_tokens if longest else n)
        return best > self.kept[-1][0]

    def best(self) -> list[Array]:
        """Return the words of the best continuations, as many as are asked for.

        Raises:
            ConfigError: if there are not so many.
        """
        count = self.options.num_return_sequences
        if len(self.kept) < count:
            most = f"at most the {len(self.kept)} texts that there are"
            raise ConfigError(f"{WHERE}: num_return_sequences must be {most}, got {count}")
        return [words for _, words in self.kept[:count]]


def _highest(values: Array, count: int) -> Array:
    """Return the places of the highest values [S], in order; of equal ones the first comes first."""
    count = min(count, len(values))
    places = np.sort(np.argpartition(-values, count - 1)[:count])
    return places[np.argsort(-values[places], kind="stable")]
