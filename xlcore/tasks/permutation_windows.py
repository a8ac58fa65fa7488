"""Text to batches for pretraining XLNet, as the authors' code makes them (Yang et al., 2019, sections 2.4 and 3.1).

A long text is cut into parallel rows, which lie one below the other in every batch. Each window of a row is a stretch
of text, whose hidden states the next window remembers, and two segments A and B of what follows it; half of the time B
is text from elsewhere. The next window's stretch follows the stretch of this one.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from xlcore.errors import ConfigError, ShapeError
from xlcore.tasks.permutation_lm import choose_targets, draw_order, join_halves, pick_targets, visibility
from xlcore.tokenizers.base import Tokenizer

Array = np.ndarray[Any, Any]

# What a word begins with, beside the pieces of SentencePiece that say so and special tokens.
PUNCTUATION = frozenset('!"#$%&()*+,-./:;?@[\\]^_`{|}~')


@dataclass(frozen=True)
class PermutationSettings:
    """What windows look like; the defaults are those of the authors' large model.

    Args:
        seq_len: T, the tokens of a window.
        reuse_len: tokens at its start that the next window remembers: half of it. The model's config has the same.
        perm_size: tokens that are permuted together; divides `reuse_len`.
        num_predict: P, the tokens to predict in each window, half of them in each half. Separators may be among those
            chosen but are never predicted; what they leave open is labelled -100. None for as many as the spans are,
            with a prediction at every position.
        mask_alpha, mask_beta: the share of context to span, see `choose_targets`.
        bi_data: the second half of a batch's rows is the first half read backwards. The model's config says so, too.
        one_hot: give target_mapping as [B, P, T], as transformers' models take it, too; else as positions [B, P], -1
            for none, which are less to move and to multiply with.
        sep_id, cls_id: the ids that `<sep>` and `<cls>` have in every model of the authors.

    Raises:
        ConfigError: for values that do not fit each other.
    """

    seq_len: int = 512
    reuse_len: int = 256
    perm_size: int = 256
    num_predict: int | None = 85
    mask_alpha: int = 6
    mask_beta: int = 1
    bi_data: bool = True
    one_hot: bool = True
    sep_id: int = 4
    cls_id: int = 3

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("sep_id", "cls_id", "bi_data", "one_hot") else 1
            if value is not None and value < least:
                raise ConfigError(f"PermutationSettings: {field.name} must be at least {least}, got {value}")
        half = self.seq_len / 2
        self._require(self.reuse_len == half, "reuse_len", f"be half of seq_len ({half:g})", self.reuse_len)
        self._require(self.segments > 0, "seq_len", "leave room for A, B and three separators", self.seq_len)
        self._require(
            self.reuse_len % self.perm_size == 0, "perm_size", f"divide reuse_len ({self.reuse_len})", self.perm_size
        )
        predicted = self.num_predict or 1
        self._require(predicted <= self.seq_len, "num_predict", f"be at most seq_len ({self.seq_len})", predicted)

    def _require(self, met: bool, name: str, condition: str, value: Any) -> None:
        if not met:
            raise ConfigError(f"PermutationSettings: {name} must {condition}, got {value}")

    @property
    def segments(self) -> int:
        """The tokens of A and B together."""
        return self.seq_len - self.reuse_len - 3


# ----------------------------------------------------------------------------------------------------------- the text


@dataclass(frozen=True)
class TokenStream:
    """A text as ids, and for each id a flag that is another one in the next sentence."""

    ids: Array
    flags: Array

    def __post_init__(self) -> None:
        kinds = self.ids.dtype.kind in "iu" and self.flags.dtype.kind == "b"
        if not kinds or self.ids.ndim != 1 or self.ids.shape != self.flags.shape:
            got = " and ".join(f"{each.dtype} {list(each.shape)}" for each in (self.ids, self.flags))
            raise ShapeError(
                f"TokenStream: ids and flags must be a row of whole numbers and a bool for each, got {got}"
            )


def token_stream(lines: Iterable[str], encode: Callable[[str], Sequence[int]], eod_id: int | None = 7) -> TokenStream:
    """Turn a text into ids.

    Args:
        lines: one sentence a line; an empty line ends a document.
        encode: the ids of a line, without special tokens; see `line_encoder`.
        eod_id: what an empty line becomes; it belongs to the sentence before it. None to leave it out.
    """
    ids: list[int] = []
    flags: list[bool] = []
    flag = False
    for line in lines:
        found = list(encode(line)) if line.strip() else []
        if found:
            flag = not flag
        elif eod_id is not None and not line.strip():
            found = [eod_id]
        ids += found
        flags += [flag] * len(found)
    return TokenStream(np.array(ids, "int32"), np.array(flags, bool))


def line_encoder(tokenizer: Tokenizer) -> Callable[[str], Sequence[int]]:
    """Return what encodes a line as the authors do: names of special tokens that occur in a text are plain text.

    Only `<eop>`, which may end a line for the end of a paragraph, is a piece of XLNet's vocabulary itself.
    """
    return lambda line: list(tokenizer.convert_tokens_to_ids(tokenizer._tokenize(line)))


def join_streams(streams: Sequence[TokenStream]) -> TokenStream:
    """Join texts; where they meet a sentence ends."""
    if len(streams) == 1:
        return streams[0]
    flags: list[Array] = []
    for stream in streams:
        last = next((each[-1] for each in reversed(flags) if len(each)), None)
        flags.append(~stream.flags if len(stream.flags) and stream.flags[0] == last else stream.flags)
    return TokenStream(np.concatenate([stream.ids for stream in streams]), np.concatenate(flags))


def word_starts(tokens: Iterable[str]) -> Array:
    """Return for each token of a vocabulary, in the order of their ids, whether it begins a word."""
    return np.array([token.startswith(("▁", "<")) or token in PUNCTUATION for token in tokens], bool)


# ------------------------------------------------------------------------------------------------------- the windows

Pair = tuple[int, int, int, int]


def choose_segments(ends: Array, length: int, begin: int, total: int, draws: Sequence[float]) -> Pair | None:
    """Choose the segments A and B of a window.

    A begins at `begin` and ends with a sentence. Half of the time, and where no sentence ends in time, B is a stretch
    of whole sentences from anywhere in the row; else it is what follows A, up to the first end of a sentence that makes
    both long enough. Then the longer one loses tokens at its right until they have `total` together.

    Args:
        ends: where sentences begin that follow another one in this row, rising.
        length: of the row.
        draws: three numbers in [0, 1): whether B is from elsewhere, which end of a sentence is A's, where B begins.

    Returns:
        Where A begins and ends and B begins and ends; None where the row has no room for them.
    """
    if begin + total >= length:
        return None
    first, last = np.searchsorted(ends, [begin + 1, begin + total])
    far = int(ends[last]) if last < len(ends) else length
    middle = int(ends[first + int(draws[1] * (last - first))]) if last > first else far
    if last == first or draws[0] < 0.5:
        size = max(1, total - (middle - begin))
        start = int(draws[2] * (length - size))
        before, after = np.searchsorted(ends, [start + 1, start + size])
        start = int(ends[before - 1]) if before else 0
        stop = min(int(ends[after]) if after < len(ends) else length, length - 1)
    else:
        start, stop = middle, far
    a, b = _trimmed(middle - begin, stop - start, total)
    return (begin, begin + a, start, start + b) if max(begin + a, start + b) < length else None


def _trimmed(a: int, b: int, total: int) -> tuple[int, int]:
    """Return two lengths after the longer one, the second of equals, has lost one after the other."""
    excess = a + b - total
    level = min(excess, abs(a - b))
    a, b = (a - level, b) if a > b else (a, b - level)
    rest = excess - level
    return a - rest // 2, b - (rest - rest // 2)


@dataclass(frozen=True)
class _Rows:
    """A text cut into rows, as one pass over it reads them. Rows read backwards are not stored."""

    ids: Array  # [B, length], or half as many rows with bi_data
    ends: list[Array]  # of each row of a batch, where sentences begin

    @classmethod
    def of(cls, stream: TokenStream, batch_size: int, bi_data: bool) -> "_Rows":
        stored = batch_size // 2 if bi_data else batch_size
        length = len(stream.ids) // stored
        ids, flags = (each[: stored * length].reshape(stored, length) for each in (stream.ids, stream.flags))
        ends = [1 + np.flatnonzero(row[1:] != row[:-1]) for row in flags]
        mirrored = [length - each[::-1] for each in ends] if bi_data else []
        return cls(ids, ends + mirrored)

    @property
    def length(self) -> int:
        return int(self.ids.shape[1])

    def at(self, places: Array) -> Array:
        """Return the ids at places [B, N] of each row, in its own direction of reading."""
        stored = len(self.ids)
        backwards = np.arange(len(places))[:, None] >= stored
        row = np.arange(len(places))[:, None] % stored
        return np.asarray(self.ids[row, np.where(backwards, self.length - 1 - places, places)], "int64")


class PermutationBatches:
    """Batches for pretraining: the batch of a number is a function of texts, settings, seed and that number alone.

    Numbers run through the texts again and again; each pass shuffles the texts, cuts them anew into rows, and draws
    anew what is predicted. Batches that follow each other hold windows that follow each other, row by row, for a model
    that carries its memory: read them in order. The ids of all texts lie in memory, twice where there are several.

    Args:
        texts: files or documents, each as one stream.
        word_starts: [V], for each id whether it begins a word, as `word_starts` makes it.
        batch_size: B; even with `bi_data`.
        settings: what windows look like.
        seed: from which everything is drawn.
        more: what the framework's class takes, such as `workers`.

    Raises:
        ShapeError: for texts too short for one batch, or ids outside the vocabulary.
        ConfigError: for a batch size or seed that cannot be.
    """

    def __init__(
        self,
        texts: Sequence[TokenStream],
        word_starts: Any,
        batch_size: int,
        settings: PermutationSettings | None = None,
        seed: int = 0,
        **more: Any,
    ) -> None:
        super().__init__(**more)
        self.texts, self.settings = list(texts), settings or PermutationSettings()
        self.word_starts = np.asarray(word_starts, bool)
        self.batch_size, self.seed = batch_size, seed
        self._first = (0, 0)
        self._cut: tuple[int, _Rows] | None = None
        self._steps: dict[int, int] = {}
        self._check()

    @property
    def _where(self) -> str:
        return type(self).__name__

    def _check(self) -> None:
        s, where = self.settings, self._where
        if self.batch_size < 1 or (s.bi_data and self.batch_size % 2):
            condition = "be even with bi_data" if s.bi_data else "be positive"
            raise ConfigError(f"{where}: batch_size must {condition}, got {self.batch_size}")
        if self.seed < 0:
            raise ConfigError(f"{where}: seed must be at least 0, got {self.seed}")
        size = len(self.word_starts)
        for text in self.texts:
            low, high = (int(text.ids.min()), int(text.ids.max())) if len(text.ids) else (0, 0)
            if low < 0 or high >= size:
                raise ShapeError(f"{where}: ids must lie in [0, {size}), as word_starts does, got {low} to {high}")
        if max(s.sep_id, s.cls_id) >= size:
            raise ConfigError(f"{where}: sep_id, cls_id must lie in [0, {size}), got {s.sep_id}, {s.cls_id}")
        stored, tokens = self.batch_size // (1 + s.bi_data), sum(len(text.ids) for text in self.texts)
        if tokens // stored <= s.seq_len or not self.steps(0):
            raise ShapeError(
                f"{where}: texts must fill a window of {s.seq_len} in each of {stored} rows and go on after it, "
                f"got {tokens} tokens; take fewer rows or more text"
            )

    # ------------------------------------------------------------------------------------------- what to read, where

    def steps(self, pass_number: int) -> int:
        """Return how many batches a pass over the texts has."""
        if pass_number not in self._steps:
            self._steps[pass_number] = self._count(pass_number)
        return self._steps[pass_number]

    def _count(self, pass_number: int) -> int:
        rows, s = self._rows(pass_number), self.settings
        most = max(0, (rows.length - s.seq_len) // s.reuse_len + 1)
        # Nowhere but past the last end of a sentence can a window find no room.
        last = min(int(ends[-1]) if len(ends) else 0 for ends in rows.ends)
        surely = max(0, (last - s.segments) // s.reuse_len)
        failed = (step for step in range(surely, most) if self._segments(rows, pass_number, step) is None)
        return next(failed, most)

    def place(self, number: int) -> tuple[int, int]:
        """Return which pass a batch belongs to and its number within it; 0 is where memory of before has no meaning.

        Raises:
            IndexError: for a negative number.
        """
        if number < 0:
            raise IndexError(f"{self._where}: the number of a batch must be at least 0, got {number}")
        pass_number, step = self._first[0], self._first[1] + number
        while step >= self.steps(pass_number):
            step -= self.steps(pass_number)
            pass_number += 1
        return pass_number, step

    def _rows(self, pass_number: int) -> _Rows:
        """Return the rows of a pass; those of the last one asked for are kept."""
        cut = self._cut  # read once: batches may be made in several threads
        if cut is None or cut[0] != pass_number:
            order = np.random.default_rng([self.seed, pass_number, 0]).permutation(len(self.texts))
            stream = join_streams([self.texts[number] for number in order])
            cut = self._cut = pass_number, _Rows.of(stream, self.batch_size, self.settings.bi_data)
        return cut[1]

    def _segments(self, rows: _Rows, pass_number: int, step: int) -> Array | None:
        """Return [B, 4], A and B of each row, or None if a row has no room for them."""
        s, draws = self.settings, self._chance(pass_number, step).random((self.batch_size, 3)).tolist()
        begin = (step + 1) * s.reuse_len
        found = [
            choose_segments(ends, rows.length, begin, s.segments, drawn)
            for ends, drawn in zip(rows.ends, draws, strict=True)
        ]
        return None if None in found else np.array(found)

    def _chance(self, pass_number: int, step: int, stage: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.seed, pass_number, step + 1, stage])

    # ---------------------------------------------------------------------------------------------------- the batch

    def batch(self, number: int) -> dict[str, Array]:
        """Make a batch.

        Returns:
            input_ids [B, T], token_type_ids [B, T] (0 for the stretch that is remembered and A, 1 for B, 2 for `<cls>`;
            each separator as what it ends), perm_mask [B, T, T], target_mapping and labels [B, P].
        """
        pass_number, step = self.place(number)
        rows, s = self._rows(pass_number), self.settings
        segments = self._segments(rows, pass_number, step)
        assert segments is not None, "a pass has only as many steps as there is room for"
        ids, types = self._window(rows, step, segments)
        rng = self._chance(pass_number, step, 1)
        goals = (None, None) if s.num_predict is None else (s.num_predict - s.num_predict // 2, s.num_predict // 2)
        halves = [ids[:, : s.reuse_len], ids[:, s.reuse_len :]]
        seen = [self._targets(half, goal, rng) for half, goal in zip(halves, goals, strict=True)]
        targets = np.concatenate([each[1] for each in seen], axis=1)
        mapping, labels = pick_targets(ids, targets, s.num_predict, s.one_hot)
        return {
            "input_ids": ids,
            "token_type_ids": types,
            "perm_mask": join_halves(seen[0][0], seen[1][0]),
            "target_mapping": mapping,
            "labels": labels,
        }

    def _window(self, rows: _Rows, step: int, segments: Array) -> tuple[Array, Array]:
        """Return ids and segment numbers [B, T] of the windows at a step."""
        s = self.settings
        a_start, a_end, b_start, _ = segments.T[..., None]  # each [B, 1]
        after = np.arange(s.reuse_len)
        a_length = a_end - a_start
        in_a = after < a_length
        places = np.where(in_a, a_start + after, b_start + after - a_length - 1)
        places = np.where(after > s.segments, 0, np.maximum(places, 0))
        stretch = np.broadcast_to(step * s.reuse_len + after, places.shape)
        ids = rows.at(np.concatenate([stretch, places], axis=1))
        second = ids[:, s.reuse_len :]
        second[(after == a_length) | (after == s.segments + 1)] = s.sep_id
        second[:, -1] = s.cls_id
        types = np.zeros_like(ids)
        types[:, s.reuse_len :] = after > a_length
        types[:, -1] = 2
        return ids, types

    def _targets(self, ids: Array, goal: int | None, rng: np.random.Generator) -> tuple[Array, Array]:
        """Choose targets and an order in one half [B, T] of the windows: who may not see whom, and the targets."""
        s = self.settings
        # Words are chosen as they are read, also in rows that lie backwards.
        backwards = np.zeros(len(ids), bool)
        backwards[len(ids) // 2 :] = s.bi_data
        starts = self.word_starts[ids]
        starts[backwards] = starts[backwards, ::-1]
        chosen = choose_targets(starts, goal, rng, s.mask_alpha, s.mask_beta)
        chosen[backwards] = chosen[backwards, ::-1]
        order = draw_order(len(ids), s.reuse_len, s.perm_size, rng)
        return visibility(chosen, np.isin(ids, (s.sep_id, s.cls_id)), order)

    # --------------------------------------------------------------------------------------------------- going on

    @cached_property
    def fingerprint(self) -> str:
        """What tells texts, settings and seed from others."""
        known = hashlib.sha256(repr((asdict(self.settings), self.batch_size, self.seed, len(self.texts))).encode())
        for array in (self.word_starts, *(each for text in self.texts for each in (text.ids, text.flags))):
            known.update(f"{array.dtype} {len(array)}".encode() + np.ascontiguousarray(array).tobytes())
        return known.hexdigest()[:16]

    def state(self, done: int) -> dict[str, Any]:
        """Return, for JSON, where to go on after so many batches (loaders read ahead, so only the caller can count)."""
        pass_number, step = self.place(done)
        return {"pass_number": pass_number, "step": step, "fingerprint": self.fingerprint}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a state: batch 0 is now the next one. The memory of the model is the caller's to keep.

        Raises:
            ConfigError: for a state of other texts, settings or another seed, or one that names no place.
        """
        got, place = state.get("fingerprint"), (state.get("pass_number"), state.get("step"))
        if got != self.fingerprint:
            raise ConfigError(
                f"{self._where}: state must be of the same texts, settings and seed ({self.fingerprint}), got {got}"
            )
        if not all(isinstance(each, int) and each >= 0 for each in place):
            raise ConfigError(f"{self._where}: state must hold pass_number and step, each at least 0, got {place}")
        self._first = int(state["pass_number"]), int(state["step"])
