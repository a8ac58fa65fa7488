"""Reading texts on with two streams: what has been read stays as keys and values, not as hidden states."""

import copy
from typing import Any

from keras import ops

from xl_tf.backend import compiled_function
from xl_tf.layers.attention import Keys
from xl_tf.layers.two_stream import RelativeAttention, Scene, Sight, encoded_distances, scene_of
from xlcore.errors import ConfigError

STEP = 3  # rows of a call that reads on: two words, and the place of the next
ROOM = 64  # what is kept has room for a multiple of it; steps through texts of about one length are compiled once


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

    absent: Any = 0  # how many of the rows that are kept hold nothing yet, at the front
    step: Any = None

    def __init__(self, model: Any, count: int, recall: bool) -> None:
        config = model.config
        if not hasattr(model, "lm_head"):
            raise ConfigError(f"generate: model must be a language model, got {type(model).__name__}")
        if config.attn_type == "uni" and config.same_length:
            raise ConfigError("generate: same_length must be false for a guess to see the text before it, got true")
        self.model, self.count, self.recall = model, count, recall
        self.layers: list[Keys] = []

    def scores(self, texts: Any) -> Any:
        """Return the scores of the next word, [B, V], for texts [B, T] that are a word longer than at the last call."""
        if not self.layers:
            body = self.model.body()
            body._check(**{**dict.fromkeys(body.head.inputs), "input_ids": texts})
            self.longest = texts.shape[1] + self.count
            mem_len = body.mem_len if body.mem_len > 0 else self.longest + 2
            self.window = min(self.longest, max(0, mem_len - 2))  # what mems hold, less what is read again
        return self._read_on(texts[:, -2:]) if self.layers else self._read(texts)

    def choose(self, rows: Any) -> None:
        """Have row i go on as what was row rows[i], rows [B']."""
        for number, (key, value, position) in enumerate(self.layers):
            self.layers[number] = Keys(ops.take(key, rows, axis=0), ops.take(value, rows, axis=0), position)

    def _read(self, ids: Any) -> Any:
        """Return the scores of the word behind ids [B, T - 1] and all that is remembered, and remember them, too."""
        body, again = self.model.body(), bool(self.layers)
        hidden = body.embedding(ids)
        guess = ops.cast(body.mask_embedding, hidden.dtype)
        hidden = ops.concatenate([hidden, ops.repeat(guess, ids.shape[0], axis=0)], axis=1)  # [B, T, D]
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

    def _scene(self, hidden: Any, again: bool) -> Scene:
        """Return who sees what: all that `attn_type` allows, but the place of the guess, which has no key."""
        config, T = self.model.config, hidden.shape[1]
        M = self.layers[0].key.shape[2] if again else 0
        scene = scene_of(config, hidden, T, M, self._blocked(M + T, again), None, None, False)
        visible = scene.content.visible
        distances = hidden if again else encoded_distances(config, T, 0, hidden)  # else projected already
        return Scene(distances, Sight(None if visible is None else visible[..., :-1], None))

    def _all(self, attention: RelativeAttention, words: Any, scene: Scene) -> Keys:
        """Return the keys of words [B, T - 1, D], the first that are read; keep them."""
        keys = Keys(*attention.keys(words), attention.positions(scene.distances))
        if self.recall:
            distances = encoded_distances(self.model.config, STEP, self._room, words)
            self.layers.append(self._shelved(keys, attention.positions(distances)))
        return keys

    # ---------------------------------------------------- what is kept: the last rows, of which the first may be absent

    @property
    def _room(self) -> int:
        """How many rows are kept, always as many."""
        return self.window if self.window < self.longest else roomy(self.longest)

    def _blocked(self, count: int, again: bool) -> Any:
        """Return which of what a call could see is not there, [1, 1, S + 1]; nothing in the first call."""
        return ops.arange(count)[None, None] < self.absent if again else None

    def _shelved(self, keys: Keys, position: Any) -> Keys:
        """Return a place for all keys, with the first ones in it, and the keys of distances."""
        self.absent = self._room
        B, N, _, H = keys.key.shape
        empty = ops.zeros((B, N, self._room, H), keys.key.dtype)
        shelf = [ops.concatenate([empty, first], axis=2) for first in (keys.key, keys.value)]
        return Keys(*shelf, position)

    def _more(self, number: int, attention: RelativeAttention, words: Any) -> Keys:
        """Return all keys of a layer: behind those remembered those of words [B, T - 1, D]; keep them."""
        key, value, position = self.layers[number]
        rows = [ops.concatenate(each, axis=2) for each in zip((key, value), attention.keys(words), strict=True)]
        self.layers[number] = Keys(*rows, position)
        return self.layers[number]

    def _keep(self, T: int) -> None:
        """Remember of the T rows just read what mems would hold, without the last two."""
        added = max(0, min(T, self.model.config.reuse_len or T) - 2)
        self.absent = ops.maximum(self.absent - added, 0)
        last = self.layers[0].key.shape[2] - (T - 1) + added
        for number, (key, value, position) in enumerate(self.layers):
            self.layers[number] = Keys(key[:, :, added:last], value[:, :, added:last], position)

    # ------------------------------------------------------------------------------------------------- compiled steps

    def _read_on(self, ids: Any) -> Any:
        """Read on in compiled code, one for all steps."""
        self.step = self.step or self._compiled()
        found, self.layers, self.absent = self.step(ids, self.layers, self.absent)
        return found

    def _compiled(self) -> Any:
        """Return a step as a function of everything that changes; the model keeps it as long as its config stays."""
        config, function = self.model.step_function
        if config != self.model.config:
            blank = copy.copy(self)
            blank.layers, blank.step = [], None  # it lives as long as the model, so it holds nothing
            config, function = self.model.config.copy(), compiled_function(blank._stepped, self.model)
            self.model.step_function = (config, function)
        return function

    def _stepped(self, ids: Any, layers: list[Keys], absent: Any) -> tuple[Any, list[Keys], Any]:
        """Read on from what is given; return the scores, and what there is then."""
        reader = copy.copy(self)
        reader.layers, reader.absent = [Keys(*each) for each in layers], absent
        return reader._read(ids), reader.layers, reader.absent


def roomy(count: int) -> int:
    """Return for how many rows room is made where that many are needed."""
    return -(-count // ROOM) * ROOM


def _of_last(scene: Scene) -> Scene:
    """Return what the last query alone sees."""
    visible = scene.content.visible
    return Scene(scene.distances, Sight(None if visible is None else visible[..., -1:, :], None))
