"""Continuing a text."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from xl_tf.layers.cache import KeyValueCache
from xl_tf.layers.key_values import KeyValueMemory, compiled_reader
from xl_tf.layers.reading import TextReader
from xl_tf.layers.roberta import word_positions
from xl_tf.layers.steps import compiled_steps, make_room
from xl_tf.model import Model
from xlcore.config import boolean, fitted, optional
from xlcore.errors import ConfigError, ShapeError
from xlcore.tasks.continuation import continue_texts
from xlcore.tasks.generation import GenerationOptions, prompt_rows, require_room
from xlcore.tasks.language_modeling import language_of, most_words

Array = np.ndarray[Any, Any]
LANGUAGE_MODELS = ("causal_lm", "permutation_lm", "word_lm", "masked_lm", "decoder_lm")


def generate(
    model: Model,
    input_ids: Any,
    max_new_tokens: int,
    *,
    attention_mask: Any = None,
    do_sample: bool | None = None,
    temperature: float | None = None,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    seed: int | Sequence[int] = 0,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    num_return_sequences: int = 1,
    eos_token_id: int | Sequence[int] | None = None,
    stop: Sequence[Sequence[int]] = (),
    pad_token_id: int | None = None,
    streamer: Callable[[dict[int, int]], Any] | None = None,
    lang: int | None = None,
    use_mems: bool | None = None,
) -> Any:
    """Continue texts word by word: by the likeliest word, by chance, or by beam search.

    Each step reads one word, for memory or a cache holds what was read before. Texts of one length are continued
    together, one length after the other, so that each row is what it is alone.

    XLNet reads both ways: a step reads the word before once more, now that it sees the new one, as in transformers.
    Earlier words stay as they were read, when nothing stood behind them. With `use_mems=False` each step reads the
    whole text anew, in which every word sees every other: far slower, and other words come out.

    A model that is neither causal nor has memory reads the whole text in each step, with `config.mask_token_id` behind
    it, in place of which it guesses a word.

    Args:
        model: a language model; it computes as in evaluation.
        input_ids: [B, T], or a list of B rows of any lengths.
        max_new_tokens: words to add at the most.
        attention_mask: [B, T], 0 for padding before a text or behind it, which is not read. Without it all is read.
        do_sample: whether chance picks words; None if the temperature is above 0.
        temperature: what scores are divided by before chance picks; 0 is greedy, None is 1 with `do_sample`, else 0.
        top_k: words that chance picks from, the likeliest; 0 for all.
        top_p: the share that they must have together at least, the fewest that have it; 1 for all.
        repetition_penalty: what scores below zero of words that the text has are multiplied by, and others divided.
            Scores are logits; logarithms of probabilities with beams, and where a model has an adaptive softmax.
        seed: of chance, for all rows, each of which draws from its own stream by its place; or one for each row, which
            then is what it is alone with that seed.
        num_beams: how many beams are searched; 1 for none. Beams are not picked by chance.
        length_penalty: the power of the number of words by which a beam's sum of log-probabilities is divided.
        early_stopping: when a search with as many ended beams as there are beams ends: True for at once, False where
            the best one that goes on is worse than all at its length, "never" where it cannot get better any more.
        num_return_sequences: texts for each row, the best beams or drawn each by itself.
        eos_token_id: ends a text, or several that do. All stops when every text has ended.
        stop: lists of words; a text ends behind any of them that has been written.
        pad_token_id: fills up shorter texts on the right; an `eos_token_id` if None, else `config.pad_token_id`.
        streamer: called in each step with the new words, by row of the result, of the texts that have not ended.
        lang: the language of all words, for models with several; `config.lang_id` if None.
        use_mems: whether XLNet remembers what it has read; `config.use_mems_eval` if None.

    Returns:
        [B R, T + new], the texts with what was added, R rows for each of the B.

    Raises:
        ConfigError: for what is no language model, for options that are none, or that have no effect on how words are
            chosen, and for more words than a model of fixed length has positions for, wherever a text might end.
        ShapeError: for texts that cannot be read, and a model whose scores are no numbers.
    """
    _require_model(model)
    options = GenerationOptions(
        max_new_tokens, do_sample, temperature, top_k, top_p, repetition_penalty, seed, num_beams, length_penalty,
        early_stopping, num_return_sequences, eos_token_id, stop, pad_token_id, streamer,
    )  # fmt: skip
    fitted("generate", "use_mems", use_mems, optional(boolean))
    rows = prompt_rows(input_ids, attention_mask)
    lengths = sorted({len(row) for row in rows})
    require_room(model.config, model.head.kind, lengths[-1], options.max_new_tokens)
    if getattr(model.config, "bi_data", False) and len(lengths) > 1:
        raise ShapeError(f"generate: texts must be of one length with bi_data, got {lengths}")

    def begin() -> Reader:
        return Reader(*_reader(model, options, lang, use_mems))

    found = continue_texts(rows, options, begin, getattr(model.config, "pad_token_id", None))
    return ops.convert_to_tensor(found)


def _require_model(model: Any) -> None:
    """Refuse what writes no words, and models of other packages; what only wraps one of ours is fine."""
    body = getattr(model, "body", None)
    if not callable(body) or not isinstance(body(), Model) or model.head.kind not in LANGUAGE_MODELS:
        raise ConfigError(f"generate: model must be a language model, got {type(model).__name__}")


class Reader:
    """Reads texts that grow, as `continue_texts` asks for it.

    Args:
        scores: from texts [B, T] to the scores of their next words, [B, V].
        kept: what has been read; None if every call reads all.
    """

    def __init__(self, scores: Callable[[Any], Any], kept: Any) -> None:
        self.scores, self.kept = scores, kept

    def read(self, texts: Array) -> Array:
        """Return the scores of next words, [B, V], for texts [B, T] that are a word longer than at the last call."""
        return ops.convert_to_numpy(ops.cast(self.scores(ops.convert_to_tensor(texts)), "float32"))

    def choose(self, rows: Array) -> None:
        """Go on in row i with what has been read as row rows[i]."""
        if self.kept is not None and (rows != np.arange(len(rows))).any():
            self.kept.choose(rows)


def _reader(
    model: Model, options: GenerationOptions, lang: int | None, use_mems: bool | None
) -> tuple[Callable[[Any], Any], Any]:
    """Return what reads texts that grow, from [B, T] to the scores of the next words, [B, V]; and what it keeps of
    them."""
    config = model.config
    lang = language_of("generate", config, lang)
    if hasattr(config, "use_mems_eval"):
        reader = TextReader(model, options.max_new_tokens, config.use_mems_eval if use_mems is None else use_mems)
        return reader.scores, reader if reader.recall else None
    if use_mems is not None:
        raise ConfigError(f"generate: use_mems must be given for XLNet only, got {use_mems}")
    if model.head.kind in ("masked_lm", "decoder_lm"):
        return _by_past(model, options)
    if not hasattr(config, "causal"):
        return _by_memory(model, options.greedy)
    return _by_cache(model, options, lang) if config.causal else (_by_mask(model, options.greedy, lang), None)


def _scores(model: Model, greedy: bool, *given: Any, **keys: Any) -> Any:
    """Call a model; return the scores of the next words, [B, V].

    Those of all but the likeliest may be -inf where it alone counts (`greedy`): an adaptive softmax finds it without
    looking into clusters where it cannot be.
    """
    head = getattr(model, "crit", None)
    if head is None or not greedy:
        return model(*given, **keys, logits_to_keep=1, training=False).logits[:, -1]
    hidden = model.body()(*given, **keys, return_dict=True, training=False).last_hidden_state[:, -1]
    scores, words = head.likeliest(hidden)  # [B, 1]
    others = ops.arange(model.config.vocab_size, dtype=words.dtype) != words
    return ops.where(others, -float("inf"), scores)


def _by_memory(model: Model, greedy: bool) -> tuple[Callable[[Any], Any], Any]:
    """Read on after the memory of what was read; a model without memory reads everything anew."""
    if model.body().mem_len <= 0:
        return lambda texts: _scores(model, greedy, texts), None
    length, memory = 0, KeyValueMemory()

    def step(memory: KeyValueMemory, words: Any) -> Any:
        return _scores(model, greedy, words, mems=memory)

    def read(texts: Any) -> Any:
        nonlocal length
        start, length = length, texts.shape[1]
        return (_compiled(compiled_reader, model, step, greedy) if start else step)(memory, texts[:, start:])

    return read, memory


def _compiled(compiled: Callable[..., Any], model: Model, step: Callable[..., Any], *told: Any) -> Callable[..., Any]:
    """Return a step in compiled code, one for all steps; the model keeps it as long as its config and `told` stay."""
    settings, function = model.step_function
    if settings != (model.config, *told):
        settings, function = (model.config.copy(), *told), compiled(model, step)
        model.step_function = (settings, function)
    return function


def _by_cache(model: Model, options: GenerationOptions, lang: int | None) -> tuple[Callable[[Any], Any], Any]:
    """Read on from the keys and values of what was read; a word that is written as padding counts like any other."""
    greedy, cache = options.greedy, KeyValueCache()

    def step(cache: KeyValueCache, words: Any, positions: Any) -> Any:
        before = [[0, 0], [cache.length, 0]]  # of what has been read only the length counts
        texts, positions = ops.pad(words, before), ops.pad(positions, before)
        words, langs = ops.ones_like(texts), None if lang is None else ops.full_like(texts, lang)
        return _scores(model, greedy, texts, words, langs, position_ids=positions, cache=cache)

    def read(texts: Any) -> Any:
        positions = ops.cumsum(ops.ones_like(texts), axis=1) - 1
        if not cache.layers:  # nothing has been read, or there are no layers
            return step(cache, texts[:, cache.length :], positions[:, cache.length :])
        _make_room(model, cache, options)
        return _compiled(compiled_steps, model, step, greedy, lang)(cache, texts[:, -1:], positions[:, -1:])

    return read, cache


def _make_room(model: Model, cache: KeyValueCache, options: GenerationOptions) -> None:
    """Have a cache hold as many positions in each step."""
    if cache.absent is None:
        make_room(cache, options.max_new_tokens - 1, most_words(model.config, model.head.kind))


def _by_past(model: Model, options: GenerationOptions) -> tuple[Callable[[Any], Any], Any]:
    """Read on from the keys and values of what was read; padding in a text counts for no position."""
    config, cache = model.config, KeyValueCache()
    if not config.is_decoder or model.head.kind != "decoder_lm":
        got = f"{type(model).__name__} with is_decoder={config.is_decoder}"
        raise ConfigError(f"generate: model must be a decoder that predicts the next word, got {got}")

    def step(cache: KeyValueCache, words: Any, positions: Any = None) -> Any:
        new = {"input_ids": words, "position_ids": positions, "attention_mask": cache.held(words)}
        return model(**new, past_key_values=cache, logits_to_keep=1, training=False).logits[:, -1]

    def read(texts: Any) -> Any:
        positions = word_positions("generate", config, 0, texts, None, None, None)
        new = [texts] if positions is None else [texts, positions]
        if not cache.layers:
            return step(cache, *(each[:, cache.length :] for each in new))
        _make_room(model, cache, options)
        return _compiled(compiled_steps, model, step)(cache, *(each[:, -1:] for each in new))

    return read, cache


def _by_mask(model: Model, greedy: bool, lang: int | None) -> Callable[[Any], Any]:
    """Read the whole text and guess what a mask behind it stands for."""
    config = model.config
    if config.mask_token_id is None:
        raise ConfigError("generate: mask_token_id must be set for a model that is not causal, got None")

    def read(texts: Any) -> Any:
        mask = ops.full_like(texts[:, :1], config.mask_token_id)
        texts = ops.concatenate([texts, mask], axis=1)
        words, langs = ops.ones_like(texts), None if lang is None else ops.full_like(texts, lang)
        return _scores(model, greedy, texts, words, langs)

    return read
