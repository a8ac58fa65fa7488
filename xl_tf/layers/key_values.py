"""Memory as keys and values: what has been read is not projected again."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from xl_tf.backend import compiled_function, scope_of_code
from xl_tf.layers.attention import Keys
from xlcore.errors import ConfigError
from xlcore.memory import chosen_rows, require_kept

FEW = 16  # distances are encoded for that many queries or more


class KeyValueMemory:
    """Keys and values of what a model has read, in place of a list of `mems`, for reading on at full speed.

    Give an empty one to the first call, and the same one to each later call: it is what that call remembers then, and
    the output's `mems`. It belongs to one model in evaluation, and no gradient goes through a call that reads it. What
    has been read is kept as the weights were then; a copy (`copy.copy`, `copy.deepcopy`) goes on by itself. Compiled
    code makes its own, or takes one through `compiled_reader`.

    Args:
        mems: L x [M, B, D], to start from; as the model starts if None.
    """

    def __init__(self, mems: Sequence[Any] | None = None) -> None:
        self.given = mems
        self.body: Any = None  # what has read it; None before
        self.layers: list[KeptLayer] = []
        self.rows, self.absent = 0, 0  # rows that are kept, of which the first ones may hold nothing yet
        self.about = (0, "")  # rows of the batch, dtype of hidden states
        self.reach = (0, 0)  # T and M for which distances are encoded
        self.encoded: Any = None
        self.clamp_len = 0  # for which they are encoded, too
        self.scope = scope_of_code()  # the code in which what it holds has values

    def __copy__(self) -> "KeyValueMemory":
        """Return a memory of its own of the same model, to read on from here in several ways."""
        other = KeyValueMemory().take(self.body, self.state())
        other.clamp_len = self.clamp_len
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> "KeyValueMemory":
        return self.__copy__()

    @property
    def length(self) -> Any:
        """How many positions are remembered."""
        return self.rows - self.absent

    def mems(self) -> list[Any] | None:
        """Return what is remembered as hidden states, L x [M, B, D]; what was given at the start if nothing is read.

        Not in compiled code, where nobody knows yet how many positions these are.
        """
        if self.body is None:
            return None if self.given is None else list(self.given)
        first = int(ops.convert_to_numpy(self.absent))
        return [ops.transpose(layer.hidden()[:, first:], (1, 0, 2)) for layer in self.layers]

    def choose(self, rows: Any) -> None:
        """Have row i go on as what was row rows[i], rows [B'].

        Raises:
            ConfigError: in compiled code, for a memory from outside of it.
            ShapeError: unless these are rows that are there, as far as compiled code knows; nothing has changed then.
        """
        given, read = self.given, self.body is not None
        self._require_scope("KeyValueMemory")
        count = self.about[0] if read else given[0].shape[1] if given else None
        rows = rows_of("KeyValueMemory", rows, count)
        if not read:
            self.given = given and [ops.take(memory, rows, axis=1) for memory in given]
            return
        for layer in self.layers:
            layer.shelf = [ops.take(kept, rows, axis=0) for kept in layer.shelf]
        self.about = (self.layers[0].shelf[0].shape[0], self.about[1])

    # ------------------------------------------------------------------------------------------------- for the models

    def open(
        self, body: Any, hidden: Any, training: Any, start: Callable[[], Sequence[Any] | None]
    ) -> "list[KeptLayer]":
        """Return the layers, ready to read hidden [B, T, D].

        Args:
            training: whether the model learns.
            start: makes what a first call reads on from, L x [B, M, D]; None if that is nothing.

        Raises:
            ConfigError, ShapeError: if this is not the model, batch or dtype that was read before; in training; in
                compiled code, for a memory from outside of it.
        """
        self._require_scope(type(body).__name__)
        first, now = self.body is None, (hidden.shape[0], str(hidden.dtype))
        same = first or self.body is body
        require_kept(type(body).__name__, bool(training), same, now if first else self.about, now)
        if first:
            self.layers, self.about, self.reach = (
                [KeptLayer(self, each, self.given is None) for each in start() or [None] * len(body.blocks)],
                now,
                (0, 0),
            )
            self.rows, self.absent = 0 if self.layers[0].before is None else self.layers[0].before.shape[1], 0
        self._encode(body, hidden)
        return self.layers

    def keep(self, body: Any, added: int, most: int | None, fill: bool = True) -> "KeyValueMemory":
        """Remember that many more positions, now that a body has read them, but no more than the `most` last of all.

        Args:
            fill: keep `most` rows from the start, so that shapes stay what they are in compiled code.
        """
        self.body, count = body, self.rows + added
        self.rows = count if most is None else most if fill else min(count, most)
        for layer in self.layers:
            layer.move(count, self.rows)
        absent = self.absent + (self.rows - count)
        self.absent = max(absent, 0) if isinstance(absent, int) else ops.maximum(absent, 0)
        return self

    def blocked(self, count: int, blocked: Any) -> Any:
        """Return which keys [B or 1, 1 or T, S] are hidden: those that hold nothing, and what is, for T queries."""
        absent = (ops.arange(self.rows + count) < self.absent)[None, None]
        return absent if blocked is None else absent | blocked

    def _require_scope(self, where: str) -> None:
        """Refuse code that is compiled on its own: it would run with what it found here when it was compiled."""
        if self.scope != scope_of_code():
            raise ConfigError(
                f"{where}: mems must be made in the code that is compiled, got a KeyValueMemory from outside of it; "
                "compiled_reader(model, read) hands one in, and code that is not compiled reads any"
            )

    def _encode(self, body: Any, hidden: Any) -> None:
        """Encode the distances from hidden [B, T, D] to all keys, and more than those if they are not there yet."""
        T, M = hidden.shape[1], max(self.rows, body.mem_len) if body.mem_len > 0 else 2 * self.rows
        clamp_len = body.config.clamp_len
        if self.clamp_len != clamp_len or self.reach[0] < T or sum(self.reach) < T + self.rows:
            self.clamp_len = clamp_len
            self.reach = (max(FEW, self.reach[0], 1 << (T - 1).bit_length()), M)  # of few shapes, whatever T there are
            self.encoded = body.encoded_distances(*self.reach, hidden)  # [R, D] or [G, R, D]
            for layer in self.layers:
                layer.position = None

    # ------------------------------------------------------------------------------------------------- compiled steps

    def state(self) -> dict[str, Any]:
        """Return all that is kept as arrays, the reach as the shape of one that has no entries."""
        if self.body is None:
            return {"given": self.given}
        layers = [(*layer.shelf, layer.position) for layer in self.layers]
        absent = ops.convert_to_tensor(self.absent, "int32")
        return {"layers": layers, "absent": absent, "reach": ops.zeros((*self.reach, 0))}

    def take(self, body: Any, state: dict[str, Any]) -> "KeyValueMemory":
        """Hold what a body has read, as `state` gave it."""
        if "given" in state:
            self.given = state["given"]
            return self
        self.body, self.layers, self.clamp_len = body, [], body.config.clamp_len
        for *shelf, position in state["layers"]:
            layer = KeptLayer(self, None)
            layer.shelf, layer.position = shelf, position
            self.layers.append(layer)
        first = self.layers[0].shelf[0]
        self.rows, self.absent, self.about = first.shape[2], state["absent"], (first.shape[0], str(first.dtype))
        self.reach = tuple(state["reach"].shape[:2])
        return self


class KeptLayer:
    """What is kept of one layer: hidden states, keys and values, the same number of rows of each.

    They stand as [B, 1, rows, D] and [B, N, rows, H]: a head reads its own in one go.

    Args:
        before: hidden states [B, M, D] whose keys are still to be made.
        alike: whether these are one row M times, as at the start of a text, whose keys are made once.
    """

    def __init__(self, memory: KeyValueMemory, before: Any, alike: bool = False) -> None:
        self.memory, self.before = memory, before
        self.again = max(0, before.shape[1] - 1) if alike and before is not None else 0  # rows that are as the next
        self.shelf: list[Any] = []
        self.read: list[Any] = []  # the same and what is read behind it, until that is kept
        self.position: Any = None

    def hidden(self) -> Any:
        """Return the hidden states, [B, rows, D]."""
        return self.shelf[0][:, 0]

    def keys(self, attention: Any, hidden: Any, seen: Callable[[Any], Any]) -> Keys:
        """Return the keys of all that is kept and of hidden [B, T, D] behind it; hold those, too.

        Args:
            seen: makes of hidden states what attention sees of them.
        """
        before, T, S = self.before, hidden.shape[1], self.memory.rows + hidden.shape[1]
        new = hidden if before is None else ops.concatenate([ops.cast(before, hidden.dtype), hidden], axis=1)
        key, value = (_repeated(each, self.again) for each in attention.keys(seen(new[:, self.again :])))
        rows = [ops.expand_dims(new, 1), key, value]  # [B, 1 or N, M + T or T, D or H]
        if self.shelf:
            rows = [ops.concatenate(each, axis=2) for each in zip(self.shelf, rows, strict=True)]
        self.read = rows
        key, value = rows[1:]  # [B, N, S, H]
        return Keys(key, value, self._positions(attention, T, S))

    def move(self, count: int, rows: int) -> None:
        """Keep of the first `count` rows that many last ones; with zeros before them if there are not as many."""
        self.shelf = [kept[:, :, max(0, count - rows) : count] for kept in self.read]
        if rows > count:
            empty = [ops.zeros((*kept.shape[:2], rows - count, kept.shape[3]), kept.dtype) for kept in self.shelf]
            self.shelf = [ops.concatenate(each, axis=2) for each in zip(empty, self.shelf, strict=True)]
        self.read, self.before, self.again = [], None, 0

    def _positions(self, attention: Any, count: int, keys: int) -> Any:
        """Return the keys of all distances between that many queries and keys, [N, R, H] or [G, N, R, H]."""
        if self.position is None:
            self.position = attention.positions(self.memory.encoded)
        farthest = sum(self.memory.reach)
        ahead = self.position.shape[-2] - farthest - 1  # encoded beyond a distance of zero
        last = self.position.shape[-2] - max(0, ahead - (count - 1))
        return self.position[..., farthest - keys : last, :]


def compiled_reader(model: Any, read: Callable[..., Any]) -> Callable[..., Any]:
    """Return `read(memory, *given)`, which calls the model, as code that is compiled once for the same shapes.

    The memory is a `KeyValueMemory`, which goes on as `read` leaves it; what `read` returns must be arrays.
    It is compiled anew, too, if the config or the memory's length has changed.

    Raises:
        ConfigError: for a memory of another model, or from outside of other code that is being compiled.
    """
    body, settings, function = model.body(), None, None

    def stepped(state: dict[str, Any], *given: Any) -> tuple[Any, dict[str, Any]]:
        memory = KeyValueMemory().take(body, state)
        return read(memory, *given), memory.state()

    def step(memory: KeyValueMemory, *given: Any) -> Any:
        nonlocal settings, function
        memory._require_scope(type(body).__name__)
        same = memory.body is None or memory.body is body
        require_kept(type(body).__name__, False, same, memory.about, memory.about)
        if settings != (model.config, body.mem_len):
            settings, function = (model.config.copy(), body.mem_len), compiled_function(stepped, model)
        if memory.clamp_len != body.config.clamp_len:
            memory.reach = (0, 0)  # distances are encoded anew
        found, state = function(memory.state(), *given)
        memory.take(body, state)
        return found

    return step


def rows_of(where: str, rows: Any, count: Any) -> Any:
    """Return which of so many rows are chosen, once they are seen to be there, or to have no values yet."""
    try:
        values = ops.convert_to_numpy(rows)
    except Exception:  # each framework has its own error for a tensor that has no value yet, and for what is none
        values = rows
    if values is rows and ops.is_tensor(rows):
        dtype = keras.backend.standardize_dtype(rows.dtype)
        return rows if len(rows.shape) == 1 and "int" in dtype else chosen_rows(where, f"{dtype} {rows.shape}", count)
    return ops.convert_to_tensor(chosen_rows(where, values, count), "int32")


def known_mems(mems: Any, layers: int | None = None) -> Any:
    """Return the list of hidden states that a call reads on from, if there is one, of no more than that many layers."""
    if isinstance(mems, KeyValueMemory):
        mems = mems.given if mems.body is None else None
    return mems[:layers] if isinstance(mems, Sequence) else mems


def _repeated(rows: Any, again: int) -> Any:
    """Return rows [B, N, X, H] with the first one that many times more before them."""
    return ops.concatenate([ops.repeat(rows[:, :, :1], again, axis=2), rows], axis=2) if again else rows
