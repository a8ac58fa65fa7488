"""Memory as keys and values: what has been read is not projected again."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from xl_torch.layers.attention import Keys
from xlcore.memory import chosen_rows, require_kept


class KeyValueMemory:
    """Keys and values of what a model has read, in place of a list of `mems`, for reading on at full speed.

    Give an empty one to the first call, and the same one to each later call: it is what that call remembers then, and
    the output's `mems`. It belongs to one model in evaluation, and no gradient goes through a call that reads it. What
    has been read is kept as the weights were then; a copy (`copy.copy`, `copy.deepcopy`) goes on by itself.

    Args:
        mems: L x [M, B, D], to start from; as the model starts if None.
    """

    def __init__(self, mems: Sequence[Tensor] | None = None) -> None:
        self.given = mems
        self.body: Any = None  # what has read it; None before
        self.layers: list[KeptLayer] = []
        self.start, self.end = 0, 0
        self.about = (0, "")  # rows of the batch, dtype of hidden states
        self.reach = (0, 0)  # T and M for which distances are encoded
        self.encoded: Tensor | None = None
        self.clamp_len = 0  # for which they are encoded, too

    def __copy__(self) -> "KeyValueMemory":
        """Return a memory of its own of the same model, to read on from here in several ways."""
        other = KeyValueMemory(self.given)
        if self.body is None:
            return other
        vars(other).update(vars(self))
        other.layers = [KeptLayer(other, None) for _ in self.layers]
        for layer, mine in zip(other.layers, self.layers, strict=True):
            layer.shelf, layer.position = list(mine.shelf), mine.position
        other._move(self.layers[0].shelf[0].shape[2])
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> "KeyValueMemory":
        return self.__copy__()

    @property
    def length(self) -> int:
        """How many positions are remembered."""
        return self.end - self.start

    def mems(self) -> list[Tensor] | None:
        """Return what is remembered as hidden states, L x [M, B, D]; what was given at the start if nothing is read."""
        if self.body is None:
            return None if self.given is None else list(self.given)
        return [layer.hidden().transpose(0, 1) for layer in self.layers]

    def choose(self, rows: Tensor) -> None:
        """Have row i go on as what was row rows[i], rows [B'].

        Raises:
            ShapeError: unless these are rows that are there; nothing has changed then.
        """
        given, read = self.given, self.body is not None
        count = self.about[0] if read else given[0].shape[1] if given else None
        chosen = chosen_rows("KeyValueMemory", rows, count)
        rows = torch.tensor(chosen)
        if not read:
            self.given = given and [memory.index_select(1, rows.to(memory.device)) for memory in given]
        elif chosen != list(range(count)):
            self._move(self.layers[0].shelf[0].shape[2], rows)
            self.about = (len(chosen), self.about[1])

    # ------------------------------------------------------------------------------------------------- for the models

    def open(self, body: Any, hidden: Tensor, start: Callable[[], Sequence[Tensor] | None]) -> "list[KeptLayer]":
        """Return the layers, ready to read hidden [B, T, D].

        Args:
            start: makes what a first call reads on from, L x [B, M, D]; None if that is nothing.

        Raises:
            ConfigError, ShapeError: if this is not the model, batch or dtype that was read before; in training.
        """
        first, now = self.body is None, (hidden.shape[0], str(hidden.dtype))
        require_kept(type(body).__name__, body.training, first or self.body is body, now if first else self.about, now)
        if first:
            self.layers, self.about, self.reach = (
                [KeptLayer(self, each, self.given is None) for each in start() or [None] * len(body.blocks)],
                now,
                (0, 0),
            )
            self.end = 0 if self.layers[0].before is None else self.layers[0].before.shape[1]
        self._make_room(hidden.shape[1])
        self._encode(body, hidden)
        return self.layers

    def keep(self, body: Any, added: int, most: int | None) -> "KeyValueMemory":
        """Remember that many more positions, now that a body has read them, but no more than the `most` last of all."""
        self.body, self.end = body, self.end + added
        self.start = self.start if most is None else max(self.start, self.end - most)
        return self

    def blocked(self, count: int, blocked: Tensor | None) -> Tensor | None:
        """Return which keys [B or 1, 1 or T, S] are hidden from that many queries; only what is, all hold something."""
        return blocked

    def _make_room(self, count: int) -> None:
        """Make room for that many positions behind those that are remembered."""
        if self.layers[0].shelf and self.layers[0].shelf[0].shape[2] < self.end + count:
            self._move(2 * (self.length + count))

    def _move(self, room: int, rows: Tensor | None = None) -> None:
        """Move what is remembered to a place with that much room; those rows of the batch, if they are named."""
        for layer in self.layers:
            layer.move(room, rows)
        self.start, self.end = 0, self.length

    def _encode(self, body: Any, hidden: Tensor) -> None:
        """Encode the distances from hidden [B, T, D] to all keys, and more than those if they are not there yet."""
        T, M, clamp_len = hidden.shape[1], self.length, body.config.clamp_len
        if self.clamp_len != clamp_len or self.reach[0] < T or sum(self.reach) < T + M:
            self.clamp_len = clamp_len
            most = max(M, body.mem_len) if body.mem_len > 0 else 2 * M
            self.reach = (max(T, self.reach[0]), min(2 * M, most))
            self.encoded = body.encoded_distances(*self.reach, hidden)  # [R, D] or [G, R, D]
            for layer in self.layers:
                layer.position = None


class KeptLayer:
    """What is kept of one layer: hidden states, keys and values, each rows start to end of a larger tensor.

    They stand as [B, 1, room, D] and [B, N, room, H]: a head reads its own in one go.

    Args:
        before: hidden states [B, M, D] whose keys are still to be made.
        alike: whether these are one row M times, as at the start of a text, whose keys are made once.
    """

    def __init__(self, memory: KeyValueMemory, before: Tensor | None, alike: bool = False) -> None:
        self.memory, self.before = memory, before
        self.again = max(0, before.shape[1] - 1) if alike and before is not None else 0  # rows that are as the next
        self.shelf: list[Tensor] = []
        self.position: Tensor | None = None

    def hidden(self) -> Tensor:
        """Return a copy of the hidden states, [B, M, D]."""
        return self.shelf[0][:, 0, self.memory.start : self.memory.end].clone()

    @torch.no_grad()
    def keys(self, attention: Any, hidden: Tensor, seen: Callable[[Tensor], Tensor]) -> Keys:
        """Return the keys of all that is kept and of hidden [B, T, D] behind it; hold those, too.

        Args:
            seen: makes of hidden states what attention sees of them.
        """
        start, stop = self.memory.start, self.memory.end + hidden.shape[1]
        new = hidden if self.before is None else torch.cat([self.before.to(hidden.dtype), hidden], dim=1)
        key, value = (_repeated(each, self.again) for each in attention.keys(seen(new[:, self.again :])))
        rows = [new[:, None], key, value]  # [B, 1 or N, M + T or T, D or H]
        if not self.shelf:
            self.shelf = [_empty(row, 2 * stop) for row in rows]
        for kept, row in zip(self.shelf, rows, strict=True):
            kept[:, :, stop - row.shape[2] : stop] = row
        self.before, self.again = None, 0
        key, value = (kept[:, :, start:stop] for kept in self.shelf[1:])  # [B, N, S, H]
        return Keys(key, value, self._positions(attention, hidden.shape[1], stop - start))

    def move(self, room: int, rows: Tensor | None = None) -> None:
        """Move what is kept to the front of a place with that much room; those rows of the batch, if they are named."""
        start, end = self.memory.start, self.memory.end
        for number, kept in enumerate(self.shelf):
            moved = kept[:, :, start:end]
            moved = moved if rows is None else moved.index_select(0, rows.to(kept.device))
            self.shelf[number] = _empty(moved, room)
            self.shelf[number][:, :, : end - start] = moved

    def _positions(self, attention: Any, count: int, keys: int) -> Tensor:
        """Return the keys of all distances between that many queries and keys, [N, R, H] or [G, N, R, H]."""
        if self.position is None:
            self.position = attention.positions(self.memory.encoded).contiguous()
        farthest = sum(self.memory.reach)
        ahead = self.position.shape[-2] - farthest - 1  # encoded beyond a distance of zero
        last = self.position.shape[-2] - max(0, ahead - (count - 1))
        return self.position[..., farthest - keys : last, :]


def known_mems(mems: Any, layers: int | None = None) -> Any:
    """Return the list of hidden states that a call reads on from, if there is one, of no more than that many layers."""
    if isinstance(mems, KeyValueMemory):
        mems = mems.given if mems.body is None else None
    return mems[:layers] if isinstance(mems, Sequence) else mems


def _repeated(rows: Tensor, again: int) -> Tensor:
    """Return rows [B, N, X, H] with the first one that many times more before them."""
    return torch.cat([rows[:, :, :1].expand(-1, -1, again, -1), rows], dim=2) if again else rows


def _empty(like: Tensor, room: int) -> Tensor:
    """Return a place of that much room for rows such as [B, X, any number, Y], to write to in any mode."""
    with torch.inference_mode(False):
        return like.new_empty(*like.shape[:2], room, like.shape[3])
