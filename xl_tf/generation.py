"""Continuing a text."""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from xl_tf.layers.cache import KeyValueCache
from xl_tf.layers.reading import TextReader
from xl_tf.layers.roberta import word_positions
from xl_tf.model import Model
from xlcore.config import at_least, boolean, fitted, optional, real
from xlcore.errors import ConfigError
from xlcore.tasks.language_modeling import choose_next


def generate(
    model: Model,
    input_ids: Any,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    seed: int = 0,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
    lang: int | None = None,
    use_mems: bool | None = None,
) -> Any:
    """Continue texts word by word. Each step reads one word, for memory or a cache holds what was read before.

    XLNet reads both ways: a step reads the word before once more, now that it sees the new one, as in transformers.
    Earlier words stay as they were read, when nothing stood behind them. With `use_mems=False` each step reads the
    whole text anew, in which every word sees every other: far slower, and other words come out.

    A model that is neither causal nor has memory reads the whole text in each step, with `config.mask_token_id` behind
    it, in place of which it guesses a word.

    Args:
        model: a language model.
        input_ids: [B, T], texts of one length.
        max_new_tokens: words to add at the most.
        temperature, top_k, seed: see `xlcore.tasks.language_modeling.choose_next`; temperature 0 is greedy.
        eos_token_id: ends a text; all end with the first batch in which every text has met it. None goes on.
        pad_token_id: fills up texts that have ended; `eos_token_id` if None.
        lang: the language of all words, for models with several; `config.lang_id` if None.
        use_mems: whether XLNet remembers what it has read; `config.use_mems_eval` if None.

    Returns:
        [B, T + new], the texts with what was added.
    """
    given = {"max_new_tokens": max_new_tokens, "seed": seed, "eos_token_id": eos_token_id, "pad_token_id": pad_token_id}
    for name, value in given.items():
        fitted("generate", name, value, at_least(0) if name in ("max_new_tokens", "seed") else optional(at_least(0)))
    fitted("generate", "temperature", temperature, real(0.0))
    fitted("generate", "use_mems", use_mems, optional(boolean))
    rng = np.random.default_rng(seed)
    texts, read = ops.convert_to_tensor(input_ids), _reader(model, lang, use_mems, max_new_tokens)
    filling = eos_token_id if pad_token_id is None else pad_token_id
    ended = np.zeros(len(input_ids), bool)
    for _ in range(max_new_tokens):
        chosen = choose_next(ops.convert_to_numpy(ops.cast(read(texts), "float32")), temperature, top_k, rng)
        if eos_token_id is not None:
            chosen = np.where(ended, filling, chosen)
            ended |= chosen == eos_token_id
        words = ops.cast(chosen[:, None], texts.dtype)
        texts = ops.concatenate([texts, words], axis=1)
        if ended.all():
            break
    return texts


def _reader(model: Model, lang: int | None, use_mems: bool | None, count: int) -> Callable[[Any], Any]:
    """Return what reads texts that grow, `count` times: from [B, T] to the scores of the next words, [B, V]."""
    config = getattr(model, "config", None)
    if lang is not None and not hasattr(config, "causal"):
        raise ConfigError(f"generate: lang must be given for models with languages only, got {lang}")
    if hasattr(config, "use_mems_eval"):
        return TextReader(model, count, config.use_mems_eval if use_mems is None else use_mems).scores
    if use_mems is not None:
        raise ConfigError(f"generate: use_mems must be given for XLNet only, got {use_mems}")
    if hasattr(config, "is_decoder") and model.head.kind in ("masked_lm", "decoder_lm"):
        return _by_past(model)
    if not hasattr(config, "causal"):
        return _by_memory(model)
    lang = config.lang_id if lang is None and config.has_languages else lang
    return _by_cache(model, lang) if config.causal else _by_mask(model, lang)


def _by_memory(model: Model) -> Callable[[Any], Any]:
    """Read on after the memory of what was read."""
    length, mems = 0, None

    def read(texts: Any) -> Any:
        nonlocal length, mems
        output = model(texts[:, length:], mems=mems, logits_to_keep=1, training=False)
        length, mems = texts.shape[1], output.mems
        return output.logits[:, -1]

    return read


def _by_cache(model: Model, lang: int | None) -> Callable[[Any], Any]:
    """Read on from the keys and values of what was read."""
    cache = KeyValueCache()

    def read(texts: Any) -> Any:
        langs = None if lang is None else ops.full_like(texts, lang)
        return model(texts, langs=langs, cache=cache, logits_to_keep=1, training=False).logits[:, -1]

    return read


def _by_past(model: Model) -> Callable[[Any], Any]:
    """Read on from the keys and values of what was read; padding in a text counts for no position."""
    config, cache = model.config, KeyValueCache()
    if not config.is_decoder or model.head.kind != "decoder_lm":
        got = f"{type(model).__name__} with is_decoder={config.is_decoder}"
        raise ConfigError(f"generate: model must be a decoder that predicts the next word, got {got}")

    def read(texts: Any) -> Any:
        positions = word_positions("generate", config, 0, texts, None, None, None)
        positions = None if positions is None else positions[:, cache.length :]
        new = {"input_ids": texts[:, cache.length :], "position_ids": positions, "past_key_values": cache}
        return model(**new, logits_to_keep=1, training=False).logits[:, -1]

    return read


def _by_mask(model: Model, lang: int | None) -> Callable[[Any], Any]:
    """Read the whole text and guess what a mask behind it stands for."""
    config = model.config
    if config.mask_token_id is None:
        raise ConfigError("generate: mask_token_id must be set for a model that is not causal, got None")

    def read(texts: Any) -> Any:
        mask = ops.full_like(texts[:, :1], config.mask_token_id)
        texts = ops.concatenate([texts, mask], axis=1)
        langs = None if lang is None else ops.full_like(texts, lang)
        return model(texts, langs=langs, logits_to_keep=1, training=False).logits[:, -1]

    return read
