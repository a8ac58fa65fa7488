"""How well a model predicts text; `python -m xl_torch.scoring` is what `xlbridge score` starts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from xl_torch.generation import in_evaluation, uncompiled
from xl_torch.layers.key_values import KeyValueMemory
from xl_torch.layers.vocabulary import WordScores
from xl_torch.layers.word_loss import entry_losses
from xl_torch.model import Model
from xlcore.errors import ConfigError
from xlcore.memory import carrying_nothing
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
    return ids.detach().cpu().numpy() if isinstance(ids, Tensor) else ids


@contextmanager
def _reading_as(model: Model, reading: Reading) -> Iterator[tuple[Settings, Callable[[], Any]]]:
    """Have a model read as asked for, in evaluation; give how, and what makes a reader of it."""
    model = uncompiled(model)
    body, config = _require_model(model), model.config
    mem_len, positions = getattr(body, "mem_len", 0), most_words(config, model.head.kind)
    remembered = mem_len if reading.mem_len is None else reading.mem_len
    settings = reading.settings(positions is None and remembered > 0, positions)
    lang = language_of("score", config, reading.lang)
    changed = settings.changed
    if "reuse_len" in config.fields:  # what is read stays, for the next segment begins behind it
        changed = {**changed, "reuse_len": None}
    before = {name: getattr(config, name) for name in changed if name != "mem_len"}
    with in_evaluation(model), carrying_nothing(body):
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

    Args:
        model: in evaluation mode. settings: how it reads. lang: the language of all words.
    """

    def __init__(self, model: Model, settings: Settings, lang: int | None) -> None:
        self.model, self.settings, self.lang = model, settings, lang
        self.device = next(model.parameters()).device

    def start(self) -> "Reader":
        """Begin new texts."""
        self.memory = KeyValueMemory() if self.settings.stride is None else None
        self.again = False
        self.summed: Any = None
        return self

    @torch.no_grad()
    def read(self, inputs: Any, labels: Any) -> None:
        """Read inputs [B, T], and add up the losses of labels [B, T], the words that follow; -100 for none."""
        inputs, labels = (torch.as_tensor(each, device=self.device) for each in (inputs, labels))
        losses = _losses(self.model, self._hidden(inputs, labels), labels)
        losses = losses.to(torch.float32 if self.device.type == "mps" else torch.float64).sum(-1)
        self.summed = losses if self.summed is None else self.summed + losses

    def totals(self) -> Any:
        """Return the sums, [B]."""
        return self.summed.cpu().numpy()

    def _hidden(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return what the words are predicted from, [B, T, D]."""
        body, kind = self.model.body(), self.model.head.kind
        if kind == "permutation_lm":
            return self._guesses(inputs, labels)
        if kind == "causal_lm":
            return body(inputs, mems=self.memory, return_dict=True).last_hidden_state
        if kind == "decoder_lm":
            return self.model.transform(body(inputs, use_cache=False, return_dict=True).last_hidden_state)
        langs = None if self.lang is None else torch.full_like(inputs, self.lang)
        words = torch.ones_like(inputs)  # what stands behind the end of a shorter row is seen by no word before it
        return body(inputs, words, langs, return_dict=True).last_hidden_state

    def _guesses(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return what XLNet guesses the words that follow from: at their own places, seeing what stands before."""
        last = torch.where(labels[:, -1:] >= 0, labels[:, -1:], inputs[:, -1:])
        words = torch.cat([inputs[:, self.again :], last], dim=1)  # from the second time on the first is remembered
        count, skipped = words.shape[1], words.shape[1] - inputs.shape[1]
        later = torch.ones(count, count, device=self.device).triu()  # and the word itself
        places = torch.arange(skipped, count, device=self.device)
        perm_mask, target_mapping = (each.expand(len(words), *each.shape) for each in (later, places))
        given = {"mems": self.memory, "use_mems": self.memory is not None, "return_dict": True}
        self.again = self.memory is not None
        return self.model.body()(words, perm_mask=perm_mask, target_mapping=target_mapping, **given).last_hidden_state


def _losses(model: Model, hidden: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of each word, [B, T], zero where there is none."""
    head = getattr(model, "lm_head", None) or model.crit
    rows, wanted = hidden.flatten(0, 1), labels.flatten()
    if isinstance(head, WordScores):
        losses = entry_losses([rows], [wanted], [head.weight], [head.bias], [0, len(head.weight)])
    else:
        losses = head.token_losses(rows, wanted)
    return losses.view(labels.shape)


def _placed(model: Model, device: str) -> Model:
    """Bring a model to a device."""
    return model.to(device)


if __name__ == "__main__":
    serve("xl_torch", "", _placed, text=score, sentences=score_sentences)
