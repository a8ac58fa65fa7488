"""How well a model predicts text; `python -m xl_tf.scoring` is what `xlbridge score` starts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from keras import ops

from xl_tf.backend import compiled_function
from xl_tf.layers.key_values import KeyValueMemory, compiled_reader
from xl_tf.layers.vocabulary import WordScores
from xl_tf.layers.word_loss import entry_losses
from xl_tf.model import Model
from xlcore.errors import ConfigError
from xlcore.memory import carrying_nothing
from xlcore.shapes import IGNORED_LABEL
from xlcore.tasks.language_modeling import language_of, most_words
from xlcore.tasks.scoring import (
    LANGUAGE_MODELS,
    Reading,
    SentenceScore,
    Settings,
    TextScore,
    require_sentences,
    score_rows,
    score_text,
    serve,
)

FEW = 16  # texts are filled up to a multiple of it, so that few shapes are compiled


def score(
    model: Model,
    ids: Any,
    *,
    batch_size: int = 1,
    tgt_len: int | None = None,
    mem_len: int | None = None,
    clamp_len: int | None = None,
    same_length: bool | None = None,
    window: bool = False,
    stride: int | None = None,
    drop_remainder: bool = False,
    lang: int | None = None,
    characters: int | None = None,
    words: int | None = None,
    progress: bool = True,
) -> TextScore:
    """Tell how well a model predicts a text: every word but the first, from those before it that it can remember.

    A model with memory reads on segment by segment, each of `batch_size` streams with its own memory; others read
    windows, which overlap. XLNet predicts from left to right, by permutations that are none.

    Args:
        model: a language model that predicts a word from those before it.
        ids: [N], one id a word.
        batch_size, tgt_len, mem_len, clamp_len, same_length, window, stride, drop_remainder, lang: how the text is
            read, see `xlcore.tasks.scoring.Reading`; the config stays as it is.
        characters, words: of the text, for bits per character and word.
        progress: show how far it is, where standard error is a terminal.

    Raises:
        ConfigError: for another model, or options that have no effect on it.
        ShapeError: for what is no text of its vocabulary.
    """
    reading = Reading(batch_size, tgt_len, mem_len, clamp_len, same_length, window, stride, drop_remainder, lang)
    counts = {"characters": characters, "words": words, "progress": progress}
    with _reading_as(model, reading) as (settings, begin):
        counts["vocab_size"] = model.config.vocab_size
        return score_text(_at_hand(ids), reading, settings, begin, **counts)


def score_sentences(
    model: Model,
    sentences: Sequence[Any],
    *,
    batch_size: int = 8,
    tgt_len: int | None = None,
    mem_len: int | None = None,
    clamp_len: int | None = None,
    same_length: bool | None = None,
    lang: int | None = None,
) -> list[SentenceScore]:
    """Tell how likely each sentence is, given its first token, alone: what else is in its batch changes nothing.

    Args:
        model: as for `score`.
        sentences: a row of ids each, of any lengths.
        batch_size: sentences that are read side by side. The rest as for `score`.
    """
    reading = Reading(batch_size, tgt_len, mem_len, clamp_len, same_length, lang=lang)
    with _reading_as(model, reading) as (settings, begin):
        rows = [_at_hand(sentence) for sentence in require_sentences(sentences)]
        return score_rows(rows, reading, settings, begin, vocab_size=model.config.vocab_size)


def _at_hand(ids: Any) -> Any:
    return ops.convert_to_numpy(ids) if ops.is_tensor(ids) else ids


@contextmanager
def _reading_as(model: Model, reading: Reading) -> Iterator[tuple[Settings, Callable[[], Any]]]:
    """Have a model read as asked for, in evaluation; give how, and what makes a reader of it."""
    body, config = _require_model(model), model.config
    mem_len, positions = getattr(body, "mem_len", 0), most_words(config, model.head.kind)
    remembered = mem_len if reading.mem_len is None else reading.mem_len
    settings = reading.settings(positions is None and remembered > 0, positions)
    lang = language_of("score", config, reading.lang)
    changed = settings.changed
    if "reuse_len" in config.fields:  # what is read stays, for the next segment begins behind it
        changed = {**changed, "reuse_len": None}
    before = {name: getattr(config, name) for name in changed if name != "mem_len"}
    with carrying_nothing(body):
        try:
            for name, value in changed.items():
                _change(model, name, value)
            yield settings, Reader(model, settings, lang).start
        finally:
            for name, value in {**before, "mem_len": mem_len}.items():
                _change(model, name, value)


def _change(model: Model, name: str, value: Any) -> None:
    """Change how a model reads."""
    if name != "mem_len":
        setattr(model.config, name, value)
    elif hasattr(model.body(), "mem_len"):
        model.body().reset_memory_length(value)


def _require_model(model: Any) -> Any:
    """Return the body of a model that predicts words from those before them, and refuse others."""
    config, kind = getattr(model, "config", None), model.head.kind if isinstance(model, Model) else ""
    reads = kind in ("causal_lm", "permutation_lm")
    reads = reads or (kind == "word_lm" and config.causal) or (kind == "decoder_lm" and config.is_decoder)
    if not reads:
        raise ConfigError(f"score: model must be {LANGUAGE_MODELS}, got {type(model).__name__}")
    if getattr(config, "bi_data", False):
        raise ConfigError("score: bi_data must be false for a text that is read in one direction, got true")
    return model.body()


class Reader:
    """Reads batches on, or each anew, and adds up the losses of each row.

    A batch is read by code that is compiled for its shape: shorter ones are filled up.

    Args:
        model: the model. settings: how it reads. lang: the language of all words.
    """

    def __init__(self, model: Model, settings: Settings, lang: int | None) -> None:
        self.model, self.settings, self.lang = model, settings, lang
        self.step = {again: self._compiled(again) for again in (False, True)}

    def start(self) -> "Reader":
        """Begin new texts."""
        self.memory = KeyValueMemory() if self.settings.stride is None else None
        self.again = False
        self.summed: Any = None
        return self

    def read(self, inputs: Any, labels: Any) -> None:
        """Read inputs [B, T], and add up the losses of labels [B, T], the words that follow; -100 for none."""
        if self.summed is None:
            self.length = min(self.settings.length, -(-inputs.shape[1] // FEW) * FEW)
        missing = ((0, 0), (0, self.length - inputs.shape[1]))
        inputs = np.pad(inputs, missing, "edge").astype("int32")
        labels = np.pad(labels, missing, constant_values=IGNORED_LABEL).astype("int32")
        given = [] if self.memory is None else [self.memory]
        losses = self.step[self.again](*given, *map(ops.convert_to_tensor, (inputs, labels)))
        self.again = self.memory is not None
        losses = ops.convert_to_numpy(losses).astype("float64").sum(-1)
        self.summed = losses if self.summed is None else self.summed + losses

    def totals(self) -> Any:
        """Return the sums, [B]."""
        return self.summed

    def _compiled(self, again: bool) -> Callable[..., Any]:
        """Return what reads inputs and labels [B, T], after a memory if there is one; it returns the losses [B, T]."""

        def step(memory: KeyValueMemory | None, inputs: Any, labels: Any) -> Any:
            return _losses(self.model, self._hidden(inputs, labels, memory, again), labels)

        if self.settings.stride is None:
            return compiled_reader(self.model, step)
        return compiled_function(lambda *given: step(None, *given), self.model)

    def _hidden(self, inputs: Any, labels: Any, memory: KeyValueMemory | None, again: bool) -> Any:
        """Return what the words are predicted from, [B, T, D]."""
        body, kind = self.model.body(), self.model.head.kind
        if kind == "permutation_lm":
            return self._guesses(inputs, labels, memory, again)
        if kind == "causal_lm":
            return body(inputs, mems=memory, return_dict=True).last_hidden_state
        if kind == "decoder_lm":
            return self.model.transform(body(inputs, use_cache=False, return_dict=True).last_hidden_state)
        langs = None if self.lang is None else ops.full_like(inputs, self.lang)
        words = ops.ones_like(inputs)  # what stands behind the end of a shorter row is seen by no word before it
        return body(inputs, words, langs, return_dict=True).last_hidden_state

    def _guesses(self, inputs: Any, labels: Any, memory: KeyValueMemory | None, again: bool) -> Any:
        """Return what XLNet guesses the words that follow from: at their own places, seeing what stands before."""
        last = ops.where(labels[:, -1:] >= 0, labels[:, -1:], inputs[:, -1:])
        words = ops.concatenate([inputs[:, again:], last], axis=1)  # from the second time on the first is remembered
        (B, count), skipped = words.shape, words.shape[1] - inputs.shape[1]
        later = ops.triu(ops.ones((count, count)))  # and the word itself
        places = ops.arange(skipped, count, dtype="int32")
        perm_mask, target_mapping = (ops.broadcast_to(each, (B, *each.shape)) for each in (later, places))
        given = {"mems": memory, "use_mems": memory is not None, "return_dict": True}
        return self.model.body()(words, perm_mask=perm_mask, target_mapping=target_mapping, **given).last_hidden_state


def _losses(model: Model, hidden: Any, labels: Any) -> Any:
    """Return the loss of each word, [B, T], zero where there is none."""
    head = getattr(model, "lm_head", None) or model.crit
    rows, wanted = ops.reshape(hidden, (-1, hidden.shape[-1])), ops.ravel(labels)
    if isinstance(head, WordScores):
        losses = entry_losses([rows], [wanted], [head.weight], [head.bias], [0, head.weight.shape[0]])
    else:
        losses = head.token_losses(rows, wanted)
    return ops.reshape(losses, labels.shape)


def _placed(model: Model, device: str) -> Model:
    """Return a model, which lies on the device that its process sees."""
    return model


if __name__ == "__main__":
    serve("xl_tf", "TF", _placed, text=score, sentences=score_sentences)
