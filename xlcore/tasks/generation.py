"""What is asked of `generate`, the texts that it starts from, and which words it chooses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xlcore.config import Unfit, at_least, boolean, fitted, list_of, one_or_several, optional, probability, real
from xlcore.errors import ConfigError, ShapeError
from xlcore.tasks.language_modeling import most_words

Array = np.ndarray[Any, Any]
WHERE = "generate"


def _words(value: Any) -> list[int]:
    """Take a list of words that is not empty."""
    found: list[int] = list_of(at_least(0))(None if isinstance(value, int | np.integer) else value)
    if not found:
        raise Unfit("be a list of ids")
    return found


def _function(value: Any) -> Any:
    if not callable(value):
        raise Unfit("be a function")
    return value


def _early(value: Any) -> bool | str:
    try:
        return "never" if isinstance(value, str) and value == "never" else boolean(value)
    except Unfit:
        raise Unfit("be true, false or 'never'") from None


def _above_zero(value: Any) -> float:
    number: float = real()(value)
    if number <= 0:
        raise Unfit("be above 0")
    return number


RULES = {
    "max_new_tokens": at_least(0),
    "do_sample": optional(boolean),
    "temperature": optional(real(0.0)),
    "top_k": at_least(0),
    "top_p": probability,
    "repetition_penalty": _above_zero,
    "seed": one_or_several(at_least(0)),
    "num_beams": at_least(1),
    "length_penalty": real(),
    "early_stopping": _early,
    "num_return_sequences": at_least(1),
    "eos_token_id": optional(one_or_several(at_least(0))),
    "stop": list_of(_words),
    "pad_token_id": optional(at_least(0)),
    "streamer": optional(_function),
}
CHANCE = {"top_k": 0, "top_p": 1.0, "seed": 0}  # what only drawing words looks at, and what leaves it as it is
BEAMS = {"length_penalty": 1.0, "early_stopping": False}  # what only beams look at


@dataclass
class GenerationOptions:
    """What is asked of `generate`, whose documentation tells of each.

    Raises:
        ConfigError: for values that are none, and for those that the way of choosing words has no use for.
    """

    max_new_tokens: int
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | Sequence[int] = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    num_return_sequences: int = 1
    eos_token_id: int | Sequence[int] | None = None
    stop: Sequence[Sequence[int]] = ()
    pad_token_id: int | None = None
    streamer: Callable[[dict[int, int]], Any] | None = None

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            setattr(self, name, fitted(WHERE, name, getattr(self, name), rule))
        if self.do_sample and self.temperature == 0:
            raise ConfigError(f"{WHERE}: temperature must be above 0 to draw words, got 0")
        default = 1.0 if self.do_sample else 0.0
        self.heat = default if self.temperature is None or self.do_sample is False else self.temperature
        ends = self.eos_token_id
        self.ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        self._require_effect()

    def _require_effect(self) -> None:
        """Refuse what has no effect on the way in which words are chosen, and several texts where there is but one."""
        most = self.num_beams if self.num_beams > 1 or not self.heat else self.num_return_sequences
        if self.num_return_sequences > most:
            what = f"at most num_beams={most} unless words are drawn"
            raise ConfigError(f"{WHERE}: num_return_sequences must be {what}, got {self.num_return_sequences}")
        if self.num_beams > 1 and self.heat:
            raise ConfigError(f"{WHERE}: num_beams must be 1 to draw words, got {self.num_beams}")
        if self.do_sample is False and self.temperature not in (None, 0, 1):
            what = "temperature must be left out where do_sample is false"
            raise ConfigError(f"{WHERE}: {what}, got {self.temperature}; do_sample=True draws words")
        if self.num_beams > 1:
            self._require_unused({**CHANCE, "streamer": None}, f"with num_beams={self.num_beams}", "")
            return
        self._require_unused(BEAMS, "without beams", "; num_beams=4 searches four of them")
        if not self.heat:
            self._require_unused(CHANCE, "unless words are drawn", "; do_sample=True or a temperature draws them")

    def _require_unused(self, defaults: dict[str, Any], when: str, instead: str) -> None:
        for name, default in defaults.items():
            value = getattr(self, name)
            if value != default:
                raise ConfigError(f"{WHERE}: {name} must be {default} {when}, got {value}{instead}")

    @property
    def greedy(self) -> bool:
        """Whether nothing but the likeliest word of each step counts, whatever the others are."""
        return not self.heat and self.num_beams == 1 and self.repetition_penalty == 1.0

    def ended(self, written: Array) -> Array:
        """Return which texts end, [B], with the last word of what has been written behind them, [B, n]."""
        found = np.isin(written[:, -1], self.ends)
        for words in self.stop:
            if len(words) <= written.shape[1]:
                found |= (written[:, -len(words) :] == words).all(-1)
        return np.asarray(found)

    def last_words(self) -> set[int]:
        """Return the words with which a text can end."""
        return {*self.ends, *(words[-1] for words in self.stop)}

    def require_words(self, size: int) -> None:
        """Refuse ends that are no words of a vocabulary of that size, for no text could meet them."""
        words = {*self.ends, *(word for words in self.stop for word in words)}
        if words and max(words) >= size:
            what = f"eos_token_id and stop must lie in the vocabulary of {size} words"
            raise ConfigError(f"{WHERE}: {what}, got {max(words)}")

    def chance(self, row: int, copy: int) -> np.random.Generator:
        """Return the source of chance of a row and of one of its texts."""
        seed, place = (self.seed[row], 0) if isinstance(self.seed, list) else (self.seed, row)
        return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(place, copy)))


# --------------------------------------------------------------------------------------------------------- the prompts


def prompt_rows(input_ids: Any, attention_mask: Any = None) -> list[Array]:
    """Return texts without their padding.

    Args:
        input_ids: [B, T], or a list of rows of any lengths.
        attention_mask: [B, T], 0 for padding, which stands before a text or behind it.

    Raises:
        ShapeError: for other shapes, for what is no whole number, for gaps, for texts without words.
    """
    rows = _rows("input_ids", input_ids)
    for number, row in enumerate(rows):
        if row.size and row.dtype.kind not in "iu":
            raise ShapeError(f"{WHERE}: input_ids must be whole numbers, got {row.dtype} in row {number}")
    if attention_mask is not None:
        rows = _unpadded(rows, _rows("attention_mask", attention_mask))
    for number, row in enumerate(rows):
        if not row.size:
            raise ShapeError(f"{WHERE}: input_ids must have at least one word in each row, got none in row {number}")
    if not rows:
        raise ShapeError(f"{WHERE}: input_ids must have at least one row, got 0")
    return [row if row.dtype == np.int32 else row.astype("int64") for row in rows]  # wide enough for any word


def _rows(what: str, values: Any) -> list[Array]:
    """Return the rows of an array or a list."""
    try:
        rows = [np.asarray(row) for row in values]
    except (TypeError, ValueError):  # no list, or a row that holds lists and numbers
        rows = [np.empty((0, 0))]
    if any(row.ndim != 1 for row in rows):
        got = f"shape {list(values.shape)}" if hasattr(values, "shape") else values
        raise ShapeError(f"{WHERE}: {what} must be of shape [B, T] or a list of rows, got {got}")
    return rows


def _unpadded(rows: list[Array], keep: list[Array]) -> list[Array]:
    """Return the stretch of each row that a mask keeps."""
    wanted, got = [list(row.shape) for row in rows], [list(row.shape) for row in keep]
    if wanted != got:
        raise ShapeError(f"{WHERE}: attention_mask must have an entry for each word, rows {wanted}, got {got}")
    kept = []
    for number, (row, mask) in enumerate(zip(rows, keep, strict=True)):
        places = np.flatnonzero(mask)
        if places.size and places[-1] - places[0] >= places.size:
            raise ShapeError(f"{WHERE}: attention_mask must keep one stretch of a row, got gaps in row {number}")
        kept.append(row[places])
    return kept


def require_room(config: Any, kind: str, longest: int, count: int) -> None:
    """Refuse texts that would outgrow a model of fixed length, of which it reads all but the last word written.

    Args:
        config, kind: of the model, and of its head.
        longest: words of the longest text.
        count: words that are to be added.

    Raises:
        ConfigError: for more than fit behind that text.
        ShapeError: if that text leaves no room.
    """
    positions = most_words(config, kind)
    if positions is None or not count:
        return
    most = positions if kind == "word_lm" and not config.causal else positions + 1  # a mask takes the last word's place
    if longest >= most:
        what = f"texts must have at most {most - 1} words to be continued, for the model's {positions} positions"
        raise ShapeError(f"{WHERE}: {what}, got {longest}")
    if longest + count > most:
        what = f"at most {most - longest} behind a text of {longest} words, for the model's {positions} positions"
        raise ConfigError(f"{WHERE}: max_new_tokens must be {what}, got {count}")


# ------------------------------------------------------------------------------------------------------ choosing words


def penalised(scores: Array, texts: Array, penalty: float) -> Array:
    """Make words less likely that a text has already (Keskar et al., 2019): scores below zero times the penalty, others
    divided by it.

    Args:
        scores: [B, V], logits or log-probabilities.
        texts: [B, T].
        penalty: 1 changes nothing, less than 1 makes them likelier.
    """
    if penalty == 1.0:
        return scores
    found = np.take_along_axis(scores, texts, axis=-1)
    scores = scores.copy()
    np.put_along_axis(scores, texts, np.where(found < 0, found * penalty, found / penalty), axis=-1)
    return scores


def likely(scores: Array, top_k: int, top_p: float) -> Array:
    """Leave the `top_k` likeliest words, and of these the fewest that have a share of `top_p` together: one at least.

    Args:
        scores: [B, V], logits or log-probabilities.
        top_k: 0 for all.
        top_p: 1 for all.

    Returns:
        [B, V], -inf for the others.
    """
    if 0 < top_k < scores.shape[-1]:
        least = np.partition(scores, -top_k, axis=-1)[:, -top_k, None]
        scores = np.where(scores < least, -np.inf, scores)
    if top_p == 1.0:
        return scores
    kept, shares = np.full_like(scores, -np.inf), np.exp(log_softmax(scores))
    for row, share in enumerate(shares):
        words = np.flatnonzero(2 * len(share) * share >= 1 - top_p)  # all others together have less than is left out
        words = words[np.argsort(-share[words], kind="stable")]
        before = share[words].cumsum() - share[words]
        words = words[: max(1, (before < top_p).sum())]
        kept[row, words] = scores[row, words]
    return kept


def choose_next(scores: Array, temperature: float, top_k: int, top_p: float, chances: Array) -> Array:
    """Choose the next word of each row: the likeliest at temperature 0, else one that chance picks.

    Args:
        scores: [B, V], logits or log-probabilities.
        temperature: what scores are divided by, before words are left out.
        top_k, top_p: see `likely`.
        chances: [B], numbers from 0 to below 1.

    Returns:
        [B] ids.
    """
    if temperature == 0:
        return np.asarray(scores.argmax(-1))
    scaled = likely(scores.astype("float64") / temperature, top_k, top_p)
    shares = np.exp(scaled - scaled.max(-1, keepdims=True)).cumsum(-1)
    return np.asarray((shares <= chances[:, None] * shares[:, -1:]).sum(-1))


def log_softmax(scores: Array) -> Array:
    """Return logarithms of shares of one, over the last axis."""
    scores = scores.astype("float64")
    scores = scores - scores.max(-1, keepdims=True)
    return np.asarray(scores - np.log(np.exp(scores).sum(-1, keepdims=True)))
