"""How well a model predicts text: what is read when, and the figures that papers print. No framework."""

import importlib
import json
import math
import os
import reprlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from xlcore.config import at_least, boolean, fitted, optional, read_json_object, whole
from xlcore.errors import ConfigError, ShapeError, XLError
from xlcore.shapes import IGNORED_LABEL

Array = np.ndarray[Any, Any]
Batch = tuple[Array, Array]  # ids [B, T], and [B, T] the word that each position predicts, -100 for none
COUNTS = ("characters", "words")
SEGMENT = 128  # words that are read at once, as the authors evaluate
LANGUAGE_MODELS = "a language model of Transformer-XL or XLNet, a causal one of XLM, or an XLM-RoBERTa-XL decoder"


@dataclass(frozen=True)
class TextScore:
    """What a model has to say of a text.

    Attributes:
        loss: the mean of -log p(token) in nats, over all tokens that were predicted.
        tokens: how many were predicted.
        length: tokens of the text: the first one is never predicted.
        characters, words: of the text, if they are known.
    """

    loss: float
    tokens: int
    length: int
    characters: int | None = None
    words: int | None = None

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return math.inf if self.loss >= 700 else math.exp(self.loss)  # NaN is neither

    @property
    def bits_per_token(self) -> float:
        """The loss in bits; of a model of characters the bits per character of the papers."""
        return self.loss / math.log(2)

    @property
    def bits_per_character(self) -> float | None:
        """Bits for the whole text, each token at the mean loss, for each of its characters."""
        return self._bits_per(self.characters)

    @property
    def bits_per_word(self) -> float | None:
        """Bits for the whole text for each of its words."""
        return self._bits_per(self.words)

    def _bits_per(self, count: int | None) -> float | None:
        return self.bits_per_token * self.length / count if count else None

    def to_dict(self) -> dict[str, float | int]:
        """Return all figures that are known."""
        names = ("loss", "perplexity", "bits_per_token", "bits_per_character", "bits_per_word")
        values = {name: getattr(self, name) for name in (*names, "tokens", "length", "characters", "words")}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class SentenceScore:
    """What a model has to say of a sentence: the log-probability of all its tokens but the first, and their number."""

    log_probability: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """The exponential of the mean loss; 1 where nothing is predicted."""
        return TextScore(-self.log_probability / max(1, self.tokens), self.tokens, self.tokens + 1).perplexity


@dataclass(frozen=True)
class Reading:
    """How a text is read.

    Attributes:
        batch_size: streams that are read side by side, or windows, or sentences.
        tgt_len: words that are read at once; None for 128, or as many as a model of fixed length has positions.
        mem_len, clamp_len, same_length: as the config has them if None; of models with memory only.
        window: read windows of `tgt_len` words without memory, of each only the last word's loss (all of the first's).
        stride: how far each window is moved on, whose last `stride` words count; 1 with `window`, and half a window for
            models without memory. Given, it makes windows of a model with memory, too.
        drop_remainder: leave out what does not fill all streams, and the first word of each, as the authors do.
        lang: the language of all words, for models with several; `config.lang_id` if None.
    """

    batch_size: int = 1
    tgt_len: int | None = None
    mem_len: int | None = None
    clamp_len: int | None = None
    same_length: bool | None = None
    window: bool = False
    stride: int | None = None
    drop_remainder: bool = False
    lang: int | None = None

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            fitted("score", name, getattr(self, name), rule)
        if self.window or self.stride is not None:
            self._require_for_windows()

    def _require_for_windows(self) -> None:
        """Refuse what has no effect on windows."""
        if self.mem_len or self.same_length:
            got = f"mem_len={self.mem_len}, same_length={self.same_length}"
            raise ConfigError(f"score: windows must be read without mem_len and same_length, got {got}")
        if self.drop_remainder:
            instead = "models without memory read windows"
            raise ConfigError(
                f"score: drop_remainder must be false for windows, which leave out nothing, got true; {instead}"
            )

    def settings(self, remembers: bool, positions: int | None) -> "Settings":
        """Return how a model reads.

        Args:
            remembers: whether it has a memory to read on from, if it reads with the `mem_len` that is asked for.
            positions: how many words it can read at once; None for any number.

        Raises:
            ConfigError: for what has no effect on the model, or more words than it can read.
        """
        given = {name: getattr(self, name) for name in ("mem_len", "clamp_len", "same_length")}
        if positions is not None and any(value is not None for value in given.values()):
            names = ", ".join(name for name, value in given.items() if value is not None)
            raise ConfigError(f"score: {names} must be given for models with relative positions only")
        windows = self.window or self.stride is not None or not remembers
        if windows:
            self._require_for_windows()
        length = self.tgt_len or positions or SEGMENT
        stride = self.stride or (1 if self.window else max(1, length // 2))
        if positions is not None and length > positions:
            raise ConfigError(f"score: tgt_len must be at most the model's {positions} positions, got {length}")
        if windows and stride > length:
            raise ConfigError(
                f"score: stride must be at most tgt_len={length}, for no word to be left out, got {stride}"
            )
        if positions is None and windows:
            given |= {"mem_len": 0, "same_length": False}
        return Settings(length, stride if windows else None, {n: v for n, v in given.items() if v is not None})


RULES = {
    "batch_size": at_least(1), "tgt_len": optional(at_least(1)), "mem_len": optional(at_least(0)),
    "clamp_len": optional(whole), "same_length": optional(boolean), "window": boolean, "stride": optional(at_least(1)),
    "drop_remainder": boolean, "lang": optional(at_least(0)),
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How one model reads: words at once; the stride of windows, None for memory; what its config is set to."""

    length: int
    stride: int | None
    changed: dict[str, Any]


def score_text(ids: Any, reading: Reading, settings: Settings, begin: Callable[[], Any], **counts: Any) -> TextScore:
    """Score a text.

    Args:
        ids: [N].
        begin: makes a reader of new texts: `read(inputs, labels)` takes the next batch, `totals()` are the sums of the
            losses of each row, [B].
        counts: `vocab_size`, `characters`, `words` and `progress`.

    Raises:
        ConfigError: for counts that are none.
        ShapeError: for no row of ids of the vocabulary, or one too short.
    """
    characters, words = (fitted("score", name, counts.get(name), optional(at_least(1))) for name in COUNTS)
    text = require_text("ids", ids, counts["vocab_size"])
    progress = counts.get("progress", False)
    if settings.stride is not None:
        batches = windows([text], settings.length, settings.stride, reading.batch_size)
        total, tokens = add_up(batches, begin(), len(text) - 1, progress)
    else:
        rows = streams(text, reading.batch_size, reading.drop_remainder)
        expected = sum(len(row) - 1 for row in rows)
        total, tokens = add_up(segments(rows, settings.length), begin(), expected, progress)
    return TextScore(float(total.sum()) / tokens, tokens, len(text), characters, words)


def score_rows(
    sentences: Sequence[Any], reading: Reading, settings: Settings, begin: Callable[[], Any], **counts: Any
) -> list[SentenceScore]:
    """Score sentences, each by itself; those of like length are read side by side. See `score_text`."""
    rows = [require_text(f"sentences[{number}]", ids, counts["vocab_size"]) for number, ids in enumerate(sentences)]
    found: list[SentenceScore | None] = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
    size = min(reading.batch_size, len(rows))
    for first in range(0, len(rows), max(1, size)):
        chosen = order[first : first + size]
        batch = [rows[number] for number in chosen]
        batch += [batch[-1][:1]] * (size - len(batch))  # all batches have as many rows
        if len(batch[0]) < 2:
            totals = np.zeros(size)
        elif settings.stride is None or len(batch[0]) - 1 <= settings.length:
            totals, _ = add_up(segments(batch, settings.length), begin(), 0, False)
        else:
            totals = np.array([_alone(row, settings, begin) for row in batch])
        for number, total in zip(chosen, totals, strict=False):
            found[number] = SentenceScore(-float(total), len(rows[number]) - 1)
    return [each for each in found if each is not None]


def _alone(row: Array, settings: Settings, begin: Callable[[], Any]) -> float:
    """Return the loss of a sentence that is longer than a window."""
    if len(row) < 2 or settings.stride is None:
        return 0.0
    totals, _ = add_up(windows([row], settings.length, settings.stride, 1), begin(), 0, False)
    return float(totals.sum())


def require_sentences(sentences: Any) -> list[Any]:
    """Return sentences as a list.

    Raises:
        ShapeError: if they are none.
    """
    try:
        return list(sentences)
    except TypeError:  # nothing to go through
        raise ShapeError(f"score: sentences must be a list of rows of ids, got {reprlib.repr(sentences)}") from None


def require_text(what: str, ids: Any, vocab_size: int) -> Array:
    """Return a text as one row of ids.

    Raises:
        ShapeError: if it is none, or has other ids than the vocabulary.
    """
    least = "two ids or more" if what == "ids" else "ids"
    try:
        text = np.asarray(ids)
    except (TypeError, ValueError):  # rows of unequal lengths
        raise ShapeError(f"score: {what} must be a row of {least}, got {reprlib.repr(ids)}") from None
    if text.ndim != 1 or text.dtype.kind not in "iu" or len(text) < (2 if what == "ids" else 1):
        raise ShapeError(f"score: {what} must be a row of {least}, got {text.dtype} {list(text.shape)}")
    low, high = int(text.min()), int(text.max())
    if low < 0 or high >= vocab_size:
        raise ShapeError(f"score: {what} must lie in [0, {vocab_size}), got {low if low < 0 else high}")
    return text.astype("int64")


# ------------------------------------------------------------------------------------------------- what is read when


def streams(text: Array, batch_size: int, drop_remainder: bool) -> list[Array]:
    """Cut a text into streams, each with the word behind it, so that every word but the first is predicted once.

    With `drop_remainder` as the authors do: of equal length, without the word behind; what is left over is left out.

    Raises:
        ShapeError: if the text is too short for that many streams.
    """
    least = 2 * batch_size if drop_remainder else batch_size + 1
    if len(text) < least:
        raise ShapeError(f"score: ids must be {least} or more for {batch_size} streams, got {len(text)}")
    if drop_remainder:
        return list(text[: len(text) // batch_size * batch_size].reshape(batch_size, -1))
    each, more = divmod(len(text) - 1, batch_size)
    starts = [number * each + min(number, more) for number in range(batch_size + 1)]
    return [text[start : stop + 1] for start, stop in pairwise(starts)]


def segments(rows: Sequence[Array], length: int) -> Iterator[Batch]:
    """Yield the consecutive segments of rows of any lengths, [B, T]; behind its end a row predicts nothing."""
    for start in range(0, max(map(len, rows)) - 1, length):
        yield _side_by_side([(row, start, 0) for row in rows], length)


def windows(rows: Sequence[Array], length: int, stride: int, batch_size: int) -> Iterator[Batch]:
    """Yield windows of rows, each `stride` words on, of which those words count that no window before it had."""
    places = []
    for row in rows:
        ends = range(length, max(length + 1, len(row) - 1 + stride), stride)
        places += [(row, end - length, 0 if end == length else length - stride) for end in ends]
    for first in range(0, len(places), batch_size):
        batch = places[first : first + batch_size]
        batch += [(batch[-1][0][:1], 0, 0)] * (min(batch_size, len(places)) - len(batch))  # as many rows as before
        yield _side_by_side(batch, length)


def _side_by_side(places: Sequence[tuple[Array, int, int]], length: int) -> Batch:
    """Return inputs and labels, [B, T]: of rows from a start on, but for the labels of the first few positions."""
    shape = (len(places), min(length, max(len(row) - start for row, start, _ in places) - 1))
    inputs, labels = np.empty(shape, "int64"), np.full(shape, IGNORED_LABEL, "int64")
    for number, (row, start, known) in enumerate(places):
        words = row[start : start + shape[1] + 1]
        inputs[number] = row[-1]  # behind the end stands what is never seen
        inputs[number, : len(words)] = words[: shape[1]]
        labels[number, known : max(known, len(words) - 1)] = words[known + 1 :]
    return inputs, labels


def add_up(batches: Iterator[Batch], reader: Any, expected: int, progress: bool) -> tuple[Array, int]:
    """Have a reader read all batches; return the sum of losses of each row, [B], and how many words were predicted.

    Args:
        expected: words, for the progress that is shown where standard error is a terminal.
    """
    tokens, bar = 0, _bar(expected) if progress else None
    for inputs, labels in batches:
        reader.read(inputs, labels)
        count = int((labels != IGNORED_LABEL).sum())
        tokens += count
        if bar is not None:
            bar.update(count)
    if bar is not None:
        bar.close()
    return np.asarray(reader.totals(), "float64"), tokens


def _bar(expected: int) -> Any:
    """Return what shows how far it is, where standard error is a terminal."""
    from tqdm import tqdm  # the specification itself needs numpy only

    return tqdm(total=expected, desc="score", unit="token", disable=None, leave=False, dynamic_ncols=True)


# ------------------------------------------------------------------------------------- a process of its own


@dataclass
class ScoringJob:
    """What a framework is asked to score, as a folder holds it: `job.json`, and the tokens in `tokens.npz`.

    Attributes:
        model: where it lies. head: the class, without the prefix TF.
        dtype, device: in which and where it computes.
        config: keys of the config that win over the folder's.
        reading: what `Reading` takes. counts: `characters` and `words`, if they are known.
        texts: one text, or several that are sentences.
        sentences: whether they are.
    """

    model: str
    head: str
    dtype: str
    device: str
    config: dict[str, Any]
    reading: dict[str, Any]
    counts: dict[str, int]
    texts: list[Array]
    sentences: bool = False

    def write(self, folder: Path) -> None:
        """Write the job to a folder."""
        known = {name: value for name, value in vars(self).items() if name != "texts"}
        (folder / "job.json").write_text(json.dumps(known), encoding="utf-8")
        np.savez(folder / "tokens.npz", *self.texts)

    @classmethod
    def read(cls, folder: Path) -> "ScoringJob":
        """Read what `write` wrote."""
        with np.load(folder / "tokens.npz", allow_pickle=False) as arrays:
            texts = [arrays[f"arr_{number}"] for number in range(len(arrays))]
        return cls(**read_json_object(folder / "job.json"), texts=texts)


def serve(room: str, prefix: str, place: Callable[[Any, str], Any], **scores: Callable[..., Any]) -> None:
    """Do the job in the folder that the command line names; print a line: its answer, or what went wrong.

    Args:
        room, prefix: where the model's class is, and how its name begins.
        place: brings a model to a device.
        scores: `text` and `sentences`.
    """
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what frameworks print is no answer
    try:
        job = ScoringJob.read(Path(sys.argv[1]))
        kind = getattr(importlib.import_module(room), prefix + job.head)
        model = place(kind.from_pretrained(job.model, dtype=job.dtype, **job.config), job.device)
        if job.sentences:
            found: Any = [asdict(each) for each in scores["sentences"](model, job.texts, **job.reading)]
        else:
            found = scores["text"](model, job.texts[0], **job.reading, **job.counts).to_dict()
        answer = {"found": found}
    except XLError as error:
        answer = {"error": str(error)}
    reply.write(json.dumps(answer) + "\n")
    reply.flush()
