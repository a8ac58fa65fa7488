"""Reading texts on with two streams: what has been read stays as keys and values, not as hidden states."""

from typing import Any

import torch
from torch import Tensor

from xl_torch.layers.attention import Keys
from xl_torch.layers.two_stream import Maybe, RelativeAttention, Scene, Sight, encoded_distances, scene_of
from xlcore.errors import ConfigError

STEP = 3  # rows of a call that reads on: two words, and the place of the next


class TextReader:
    """Scores the word behind texts that grow, as transformers does with `mems`, whose keys and values stay here.

    The first call reads the whole texts. Each later one reads their last two words: the first of them for good, now
    that it sees the second, which the next call reads again. In the place behind them stands the second stream, and
    it alone: the first one would not be seen there.

    Args:
        model: a language model of two streams.
        count: how often it is asked, at most.
        recall: whether to remember anything; else each call reads the whole texts.
    """

    def __init__(self, model: Any, count: int, recall: bool) -> None:
        config = model.config
        if not hasattr(model, "lm_head"):
            raise ConfigError(f"generate: model must be a language model, got {type(model).__name__}")
        if config.attn_type == "uni" and config.same_length:
            raise ConfigError("generate: same_length must be false for a guess to see the text before it, got true")
        self.model, self.count, self.recall = model, count, recall
        self.layers: list[Keys] = []

    def scores(self, texts: Tensor) -> Tensor:
        """Return the scores of the next word, [B, V], for texts [B, T] that are a word longer than at the last call."""
        if not self.layers:
            body = self.model.body()
            body._check(**{**dict.fromkeys(body.head.inputs), "input_ids": texts})
            self.longest = texts.shape[1] + self.count
            mem_len = body.mem_len if body.mem_len > 0 else self.longest + 2
            self.window = min(self.longest, max(0, mem_len - 2))  # what mems hold, less what is read again
        return self._read(texts[:, -2:]) if self.layers else self._read(texts)

    def choose(self, rows: Any) -> None:
        """Have row i go on as what was row rows[i], rows [B']."""
        for number, (key, value, position) in enumerate(self.layers):
            self.layers[number] = Keys(key[rows], value[rows], position)

    @torch.no_grad()
    def _read(self, ids: Tensor) -> Tensor:
        """Return the scores of the word behind ids [B, T - 1] and all that is remembered, and remember them, too."""
        body, again = self.model.body(), bool(self.layers)
        hidden = body.embedding(ids)
        guess = body.mask_embedding.to(hidden.dtype).expand(ids.shape[0], -1, -1)
        hidden = torch.cat([hidden, guess], dim=1)  # [B, T, D]
        T, scene = hidden.shape[1], self._scene(hidden, again)
        for number, block in enumerate(body.blocks):
            words = hidden[:, :-1]
            keys = self._more(number, block.attention, words) if again else self._all(block.attention, words, scene)
            if number + 1 == len(body.blocks):  # of its results only the guess is read
                hidden, scene = hidden[:, -1:], _of_last(scene)
            hidden, _, _ = block.look(hidden, None, keys, scene, None, False)
        if self.recall:
            self._keep(T)
        return self.model.lm_head(hidden[:, -1])

    def _scene(self, hidden: Tensor, again: bool) -> Scene:
        """Return who sees what: all that `attn_type` allows, but the place of the guess, which has no key."""
        config, T = self.model.config, hidden.shape[1]
        M = self.end - self.start if again else 0
        scene = scene_of(config, hidden, T, M, self._blocked(M + T, again), None, None, False)
        visible = scene.content.visible
        distances = hidden if again else encoded_distances(config, T, 0, hidden)  # else projected already
        return Scene(distances, Sight(None if visible is None else visible[..., :-1], None))

    def _all(self, attention: RelativeAttention, words: Tensor, scene: Scene) -> Keys:
        """Return the keys of words [B, T - 1, D], the first that are read; keep them."""
        keys = Keys(*attention.keys(words), attention.positions(scene.distances))
        if self.recall:
            distances = encoded_distances(self.model.config, STEP, self.window, words)
            self.layers.append(self._shelved(keys, attention.positions(distances)))
        return keys

    # --------------------------------------------------------------- what is kept: rows start to end of larger tensors

    def _blocked(self, count: int, again: bool) -> Maybe:
        """Return which of what a call could see is not there; nothing."""
        return None

    def _shelved(self, keys: Keys, position: Tensor) -> Keys:
        """Return a place for all keys, with the first ones in it, and the keys of distances."""
        P = keys.key.shape[2]
        self.start, self.end = 0, 0
        room = max(P, min(self.longest, 2 * self.window + P + STEP))
        shelf = [first.new_empty(*first.shape[:2], room, first.shape[3]) for first in (keys.key, keys.value)]
        for kept, first in zip(shelf, keys, strict=False):
            kept[:, :, :P] = first
        return Keys(*shelf, position)

    def _more(self, number: int, attention: RelativeAttention, words: Tensor) -> Keys:
        """Return all keys of a layer: behind those remembered those of words [B, T - 1, D]; keep them."""
        key, value, position = self.layers[number]
        stop = self.end + words.shape[1]
        key[:, :, self.end : stop], value[:, :, self.end : stop] = attention.keys(words)
        first = self.window - (self.end - self.start)
        return Keys(key[:, :, self.start : stop], value[:, :, self.start : stop], position[:, :, first:])

    def _keep(self, T: int) -> None:
        """Remember of the T rows just read what mems would hold, without the last two; make room for the next."""
        read = min(T, self.model.config.reuse_len or T)
        self.end += max(0, read - 2)
        self.start = max(self.start, self.end - self.window)
        M = self.end - self.start
        if self.layers[0].key.shape[2] < self.end + STEP - 1 and self.start >= M:
            for key, value, _ in self.layers:
                key[:, :, :M], value[:, :, :M] = key[:, :, self.start : self.end], value[:, :, self.start : self.end]
            self.start, self.end = 0, M


def _of_last(scene: Scene) -> Scene:
    """Return what the last query alone sees."""
    visible = scene.content.visible
    return Scene(scene.distances, Sight(None if visible is None else visible[..., -1:, :], None))
