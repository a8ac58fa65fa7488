"""XLM's objectives: what is predicted, and from what (Conneau and Lample, 2019, sections 3.2 to 3.4).

Masked words (MLM), masked words in pairs of translations (TLM) and the next word (CLM). Labels stand where the model
gives its scores, nothing is shifted; -100 is ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from xlcore.errors import ConfigError
from xlcore.shapes import IGNORED_LABEL
from xlcore.tasks.parallel_text import (
    EOS,
    MASK,
    PAD,
    RESERVED,
    Array,
    Sentences,
    batch_sentences,
    cut_stream,
    join_pairs,
)

Generator = np.random.Generator
MOST_A_ROUND = 5  # batches of single languages, and of pairs, in one round
ROUNDS = 256  # are drawn at once


@dataclass(frozen=True)
class Masking:
    """Which words are to be predicted, and what stands in their place; the defaults are those of the authors.

    Args:
        vocab_size: V; a random word is any of them.
        share: of words that are predicted.
        shares: of these, the share that is masked, that stays, and that becomes a random word.
        counts: [V], how often each word occurs. If given, exactly `share` of a batch's places are chosen, rare words
            more often (count to the power of -`alpha`), reserved ones never; else each place by itself.
        alpha: see `counts`; 0.5 for the authors' models of 17 and 100 languages.
        predict_ends: `</s>` may be predicted where it stands within a text.
        random_reserved: a random word may be a reserved one.

    Raises:
        ConfigError: for shares that are none.
    """

    vocab_size: int
    share: float = 0.15
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    counts: Array | None = None
    alpha: float = 0.5
    predict_ends: bool = True
    random_reserved: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"Masking: share must lie in [0, 1], got {self.share}")
        if min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-9:
            raise ConfigError(f"Masking: shares must be three parts of 1, got {self.shares}")
        if self.counts is not None and np.shape(self.counts) != (self.vocab_size,):
            raise ConfigError(f"Masking: counts must have shape [{self.vocab_size}], got {list(np.shape(self.counts))}")

    @cached_property
    def weights(self) -> Array:
        """How likely each word is chosen, [V]; words that never occur are not."""
        counts = np.asarray(self.counts, "float64")
        weights = np.where(counts > 0, np.maximum(counts, 1) ** -self.alpha, 0.0)
        weights[[EOS, PAD]] = 0.0
        return weights

    def __call__(self, ids: Array, rng: Generator) -> tuple[Array, Array]:
        """Return a batch with words hidden, [B, T], and its labels, [B, T]. The first position is never chosen."""
        chosen = self._choose(ids, rng) & (ids != PAD)
        chosen[:, 0] = False
        if not self.predict_ends:
            chosen &= ids != EOS
        kinds = rng.choice(3, size=ids.shape, p=self.shares)
        words = rng.integers(0 if self.random_reserved else RESERVED, self.vocab_size, ids.shape)
        hidden = np.choose(kinds, [np.full_like(ids, MASK), ids, words])
        return np.where(chosen, hidden, ids), np.where(chosen, ids, IGNORED_LABEL)

    def _choose(self, ids: Array, rng: Generator) -> Array:
        if self.counts is None:
            each: Array = np.asarray(rng.random(ids.shape) <= self.share)
            return each
        weights = self.weights[ids].ravel()
        goal = min(int(np.ceil(self.share * ids.size)), int(np.count_nonzero(weights)))
        chosen = np.zeros(ids.size, bool)
        if goal:
            chosen[rng.choice(ids.size, goal, replace=False, p=weights / weights.sum())] = True
        return chosen.reshape(ids.shape)


def mask_for_evaluation(ids: Array, lengths: Array, rng: Generator, share: float = 0.15) -> tuple[Array, Array]:
    """Return a batch with words masked, [B, T], and its labels, as the authors evaluate.

    Every chosen word is masked, never the first or the last of a row, and at least one in each row that has another.
    """
    columns = np.arange(ids.shape[1])
    able = (columns >= 1) & (columns < lengths[:, None] - 1)
    chosen = (rng.random(ids.shape) <= share) & able
    single = 1 + (rng.random(len(ids)) * np.maximum(lengths - 2, 0)).astype("int64")
    chosen |= (columns == single[:, None]) & able & ~chosen.any(-1, keepdims=True)
    return np.where(chosen, MASK, ids), np.where(chosen, ids, IGNORED_LABEL)


def causal_labels(ids: Array, lengths: Array, context_size: int = 0) -> Array:
    """Return [B, T], the next word of each position, but for the first `context_size` and the last."""
    columns = np.arange(ids.shape[1])
    following = np.pad(ids[:, 1:], ((0, 0), (0, 1)), constant_values=PAD)
    known = (columns >= context_size) & (columns < lengths[:, None] - 1)
    return np.where(known, following, IGNORED_LABEL)


def add_noise(
    ids: Array, lengths: Array, rng: Generator, *, shuffle: float = 3.0, drop: float = 0.1, blank: float = 0.1
) -> tuple[Array, Array]:
    """Return sentences between two `</s>` with words moved, dropped and masked, filled with `<pad>`, and their lengths.

    Args:
        ids, lengths: as `batch_sentences` gives them.
        shuffle: no word moves by more than this; 0 for no move.
        drop, blank: the share of words that go, and of those left that are masked. A sentence keeps a word at least.
    """
    noisy = []
    for row, length in zip(ids, lengths, strict=True):
        words = row[1 : length - 1]
        if shuffle:
            words = words[np.argsort(np.arange(len(words)) + rng.uniform(0, shuffle, len(words)), kind="stable")]
        kept = words[rng.random(len(words)) >= drop]
        if not len(kept) and len(words):
            kept = words[[rng.integers(len(words))]]
        noisy.append(np.where(rng.random(len(kept)) < blank, MASK, kept))
    return batch_sentences(noisy)


def language_shares(sizes: Mapping[Any, int], factor: float = 0.7) -> dict[Any, float]:
    """Return how often each language is drawn: its share of all sentences to the power of `factor`; -1 for evenly."""
    total = sum(sizes.values())
    weights = {name: 1.0 if factor == -1 else (size / total) ** factor for name, size in sizes.items()}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


@dataclass(frozen=True)
class CrossLingualSettings:
    """How batches are made.

    Args:
        batch_size: B, rows of a stream, or pairs.
        length: T of a stream.
        max_len: pairs with a longer sentence are left out; 0 for no limit.
        group_by_size: pairs of like length share a batch, which then has less padding.
        factor: see `language_shares`.
        seed: all that is random follows from it.
        objective: `"mlm"`, on pairs `"tlm"` by the same name, or `"clm"`, for models with `causal`.
    """

    batch_size: int = 32
    length: int = 256
    max_len: int = 100
    group_by_size: bool = True
    factor: float = 0.7
    seed: int = 0
    objective: str = "mlm"

    def __post_init__(self) -> None:
        if self.objective not in ("mlm", "clm"):
            raise ConfigError(f"CrossLingualSettings: objective must be 'mlm' or 'clm', got {self.objective!r}")


class CrossLingualBatches:
    """Batches for training XLM on texts of several languages and on translations, without end.

    Batch n is the same whatever was asked for before: training goes on where it stopped by asking for the next one.
    Batches come in rounds, as the authors train: as many of single languages as there are, five at the most, then as
    many of pairs, each time drawn by `language_shares`. Each language's text, and each pair of languages, is read in a
    random order, all of it before any of it again.

    Args:
        texts: language -> its text. pairs: two languages -> sentences of the first and their translations.
        masking: what is hidden; not for `objective="clm"`.
        settings: sizes, and the seed.

    Attributes:
        languages: the number of each language, by the order of their names, as `langs` has it.

    Raises:
        ConfigError: without a text, or for translations that do not match.
    """

    def __init__(
        self,
        texts: Mapping[str, Sentences],
        pairs: Mapping[tuple[str, str], tuple[Sentences, Sentences]],
        masking: Masking | None,
        settings: CrossLingualSettings,
        **more: Any,
    ) -> None:
        super().__init__(**more)
        if (masking is None) != (settings.objective == "clm"):
            raise ConfigError(f"CrossLingualBatches: masking must be given for 'mlm' only, got {masking}")
        names = {*texts, *(name for pair in pairs for name in pair)}
        if not names:
            raise ConfigError("CrossLingualBatches: texts or pairs must hold a text, got none")
        self.languages = {name: number for number, name in enumerate(sorted(names))}
        self.masking, self.settings, self._has_pairs = masking, settings, bool(pairs)
        self._sources: list[tuple[tuple[str, str], _Stream | _Pairs]] = [
            *(((name, name), _Stream(text, settings)) for name, text in texts.items()),
            *((pair, _Pairs(pair, *both, settings)) for pair, both in pairs.items()),
        ]
        counts = [source.sentences for _, source in self._sources]
        kinds = range(len(texts)), range(len(texts), len(counts))  # each is drawn from by itself
        self._shares = [
            language_shares({number: counts[number] for number in kind}, settings.factor) for kind in kinds if kind
        ]
        self._drawn = np.zeros(0, "int64")
        self._arranged: dict[int, tuple[int, list[Array]]] = {}

    def batch(self, number: int) -> dict[str, Array]:
        """Return batch `number`: input_ids, labels, attention_mask, langs and position_ids, all [B, T]."""
        drawn = self._sources_until(number)
        which = int(drawn[number])
        names, source = self._sources[which]
        earlier = int(np.count_nonzero(drawn[:number] == which))
        rng = np.random.default_rng([self.settings.seed, 2, number])
        turn, place = divmod(earlier, source.count)
        found = source.batch(self._order(which, turn)[place], (self.languages[names[0]], self.languages[names[1]]))
        ids, lengths = found.pop("input_ids"), found.pop("lengths")
        if self.masking is None:
            inputs, labels = ids, causal_labels(ids, lengths)
        else:
            inputs, labels = self.masking(ids, rng)
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype("int64")
        return {"input_ids": inputs, "labels": labels, "attention_mask": mask, **found}

    def unlike(self, number: int) -> dict[str, Array]:
        """Return batch `number`, but the second with a position of padding more if it is as long as the first.

        That changes nothing, and tells those who look at two batches that all may be of any length, as those of
        translations are. Without translations all are of one length, and stay so.
        """
        batch = self.batch(number)
        alike = self._has_pairs and number == 1 and batch["labels"].shape[1] == self.batch(0)["labels"].shape[1]
        return _lengthened(batch) if alike else batch

    def _sources_until(self, number: int) -> Array:
        """Return which source each batch is from, up to this one at least."""
        drawn = self._drawn
        while len(drawn) <= number:
            drawn = np.concatenate([drawn, self._rounds(np.random.default_rng([self.settings.seed, 0, len(drawn)]))])
        self._drawn = drawn  # set as a whole: threads may ask at once
        return drawn

    def _rounds(self, rng: Generator) -> Array:
        """Draw the sources of many rounds."""
        drawn = []
        for shares in self._shares:
            size = (ROUNDS, min(MOST_A_ROUND, len(shares)))
            drawn.append(rng.choice(list(shares), size, p=list(shares.values())))
        return np.concatenate(drawn, axis=1).ravel()

    def _order(self, which: int, turn: int) -> list[Array]:
        """Return the batches of a source in the order of a turn, kept until the next one."""
        kept = self._arranged.get(which)
        if kept is None or kept[0] != turn:
            rng = np.random.default_rng([self.settings.seed, 1, which, turn])
            kept = self._arranged[which] = (turn, self._sources[which][1].arranged(rng))
        return kept[1]


def _lengthened(batch: Mapping[str, Array]) -> dict[str, Array]:
    """Return a batch of `CrossLingualBatches` with one position of padding more, which changes nothing."""
    last = {name: array[:, -1:] for name, array in batch.items()}  # languages and positions go on
    last |= {"input_ids": np.full_like(last["input_ids"], PAD), "attention_mask": np.zeros_like(last["attention_mask"])}
    last |= {"labels": np.full_like(last["labels"], IGNORED_LABEL)}
    return {name: np.concatenate([array, last[name]], axis=1) for name, array in batch.items()}


class _Stream:
    """Batches of one text."""

    def __init__(self, text: Sentences, settings: CrossLingualSettings) -> None:
        self._batches = cut_stream(text.ids, settings.batch_size, settings.length)
        self.count, self.sentences = len(self._batches), len(text)

    def arranged(self, rng: Generator) -> list[Array]:
        """Put the batches in a random order."""
        return list(rng.permutation(self.count))

    def batch(self, chosen: Array, langs: tuple[int, int]) -> dict[str, Array]:
        ids = self._batches[chosen]
        positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape).copy()
        lengths = np.full(len(ids), ids.shape[1])
        return {"input_ids": ids, "lengths": lengths, "position_ids": positions, "langs": np.full_like(ids, langs[0])}


class _Pairs:
    """Batches of translations."""

    def __init__(
        self, names: tuple[str, str], first: Sentences, second: Sentences, settings: CrossLingualSettings
    ) -> None:
        where = f"CrossLingualBatches: pairs[{names}]"
        if len(first) != len(second):
            raise ConfigError(f"{where} must have as many sentences, got {len(first)} and {len(second)}")
        if names[0] == names[1]:
            raise ConfigError(f"{where} must be of two languages, got one")
        most = settings.max_len or np.inf
        sizes = np.stack([np.diff(first.places)[:, 0], np.diff(second.places)[:, 0]], -1)
        self._kept = np.flatnonzero((sizes.min(-1) > 0) & (sizes.max(-1) <= most))
        if not len(self._kept):
            raise ConfigError(f"{where} must have a pair without an empty or too long side, got none")
        self._sides, self._lengths = (first, second), sizes[self._kept].sum(-1)
        self._grouped, self.sentences = settings.group_by_size, len(self._kept)
        self.count = -(-self.sentences // settings.batch_size)

    def arranged(self, rng: Generator) -> list[Array]:
        """Put the pairs into batches anew, those of like length together, and the batches in a random order."""
        order = rng.permutation(self.sentences)
        if self._grouped:
            order = order[np.argsort(self._lengths[order], kind="stable")]
        batches = np.array_split(self._kept[order], self.count)
        return [batches[number] for number in rng.permutation(self.count)]

    def batch(self, chosen: Array, langs: tuple[int, int]) -> dict[str, Array]:
        one, other = (batch_sentences([side[int(row)] for row in chosen]) for side in self._sides)
        return vars(join_pairs(one, other, langs, reset_positions=True)).copy()
