"""Memory as keys and values: what has been read is not projected again."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from xl_tf.backend import compiled_function, make_place, read_place, scope_of_code, write_place
from xl_tf.layers.attention import Keys
from xlcore.errors import ConfigError
from xlcore.memory import chosen_rows, require_kept

FEW = 16  # distances are encoded, and room is made, for that many positions or more


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
        self.end: Any = None  # where they end in the places where they stand; None while they are arrays of their own
        self.free, self.needed = 0, FEW  # rows of places behind them, at least, and what the largest step needs
        self.moved = 0  # how far the end has moved in compiled code
        self.about = (0, "")  # rows of the batch, dtype of hidden states
        self.reach = (0, 0)  # T and M for which distances are encoded
        self.encoded: Any = None
        self.clamp_len = 0  # for which they are encoded, too
        self.scope = scope_of_code()  # the code in which what it holds has values

    def __copy__(self) -> "KeyValueMemory":
        """Return a memory of its own of the same model, to read on from here in several ways."""
        state = self.state()
        if self.body is not None:
            layers = [(*layer.held(), layer.position) for layer in self.layers]
            state |= {"layers": layers, "end": None}
        other = KeyValueMemory().take(self.body, state)
        other.clamp_len = self.clamp_len
        other._settle()
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
        chosen = [[ops.take(kept, rows, axis=0) for kept in layer.held()] for layer in self.layers]
        if not isinstance(self.end, int) or rows.shape[0] != count:  # compiled code may fail after this
            self.end, self.about = None, (rows.shape[0], self.about[1])
        for layer, kept in zip(self.layers, chosen, strict=True):
            layer.hold(kept, self.end)
        self._settle()

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
        if not first or self.scope is not None:  # the start of a text may be far longer than what is read behind it
            self.needed = max(self.needed, _or_more(self.moved + hidden.shape[1]))
        self._make_room(hidden.shape[1])
        self._encode(body, hidden)
        return self.layers

    def keep(self, body: Any, added: int, most: int | None, fill: bool = True) -> "KeyValueMemory":
        """Remember that many more positions, now that a body has read them, but no more than the `most` last of all.

        Args:
            fill: keep `most` rows from the start, so that shapes stay what they are in compiled code.
        """
        self.body, count = body, self.rows + added
        rows = count if most is None else most if fill else min(count, most)
        if self.end is None or rows > count:
            for layer in self.layers:
                layer.move(count, rows)
            self.end = None
        else:
            self.moved += 0 if isinstance(self.end, int) else added
            self.end, self.free = self.end + added, self.free - added
        self.rows = rows
        absent = self.absent + (rows - count)
        self.absent = max(absent, 0) if isinstance(absent, int) else ops.maximum(absent, 0)
        self._settle()
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

    def _make_room(self, count: int) -> None:
        """Make room for that many rows behind those that are kept; they become arrays where there is no more room."""
        if self.end is None or self.free >= count:
            return
        room = self.layers[0].shelf[0].shape[2]
        if isinstance(self.end, int) and room >= self.rows + self.needed:
            for layer in self.layers:
                layer.hold(layer.held(), self.rows)
            self.end, self.free = self.rows, room - self.rows
        else:
            self._loosen()
            self._settle()

    def _loosen(self) -> None:
        """Have what is kept stand in arrays of its own."""
        for layer in self.layers:
            layer.shelf = layer.held()
        self.end = None

    def _settle(self) -> None:
        """Have what is kept stand in places that are written to, where there are such, with as much room again."""
        if self.end is not None or not self.layers or not self.layers[0].shelf:
            return
        room = 2 * (self.rows + self.needed)
        places = [[make_place(kept, room) for kept in layer.shelf] for layer in self.layers]
        if places[0][0] is not None:
            for layer, each in zip(self.layers, places, strict=True):
                layer.shelf = each
            self.end, self.free = self.rows, room - self.rows

    def _encode(self, body: Any, hidden: Any) -> None:
        """Encode the distances from hidden [B, T, D] to all keys, and more than those if they are not there yet."""
        T, M = hidden.shape[1], max(self.rows, body.mem_len) if body.mem_len > 0 else 2 * self.rows
        clamp_len = body.config.clamp_len
        if self.clamp_len != clamp_len or self.reach[0] < T or sum(self.reach) < T + self.rows:
            self.clamp_len = clamp_len
            self.reach = (max(self.reach[0], _or_more(T)), M)
            self.encoded = body.encoded_distances(*self.reach, hidden)  # [R, D] or [G, R, D]
            for layer in self.layers:
                layer.position = None

    # ------------------------------------------------------------------------------------------------- compiled steps

    def state(self) -> dict[str, Any]:
        """Return all that is kept as arrays and places; counts as the shape of an array that has no entries."""
        if self.body is None:
            return {"given": self.given}
        reach = (0, 0) if any(layer.position is None for layer in self.layers) else self.reach  # if a call failed
        return {
            "layers": [(*layer.shelf, layer.position) for layer in self.layers],
            "absent": ops.convert_to_tensor(self.absent, "int32"),
            "end": None if self.end is None else ops.convert_to_tensor(self.end, "int32"),
            "counts": ops.zeros((*reach, self.rows, self.needed, 0)),
        }

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
        first, self.absent, self.end = self.layers[0].shelf[0], state["absent"], state["end"]
        *self.reach, self.rows, self.needed = state["counts"].shape[:4]
        self.about, self.free = (first.shape[0], str(first.dtype)), self.needed
        return self

    def went_on(self, before: dict[str, Any]) -> dict[str, Any]:
        """Return the state after compiled code: without the places of the one before, and how far their end moved."""
        if self.end is None or "given" in before or self.layers[0].shelf[0] is not before["layers"][0][0]:
            self._loosen()
            return self.state()
        layers = [(layer.position,) for layer in self.layers]
        return self.state() | {"layers": layers, "end": ops.zeros((self.moved, 0))}

    def go_on(self, body: Any, state: dict[str, Any]) -> None:
        """Hold what a body has read in compiled code, as `went_on` gave it there."""
        if self.end is not None and state["end"] is not None:
            moved = state["end"].shape[0]
            layers = [(*layer.shelf, *after) for layer, after in zip(self.layers, state["layers"], strict=True)]
            end, free = self.end + moved, self.free - moved
            self.moved += 0 if isinstance(self.end, int) else moved
            self.take(body, state | {"layers": layers, "end": end})
            self.free = free
        else:
            self.take(body, state)
            self._settle()


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
        return self.held(1)[0][:, 0]

    def held(self, count: int | None = None) -> list[Any]:
        """Return what is kept, or the first few of it, as arrays of their own."""
        shelf, (end, rows) = self.shelf[:count], (self.memory.end, self.memory.rows)
        return shelf if end is None else [read_place(kept, end - rows, rows) for kept in shelf]

    def hold(self, kept: list[Any], end: Any) -> None:
        """Keep these arrays of as many rows, in places so that they end there; as they are if that is None."""
        if end is None:
            self.shelf = kept
        else:
            for place, rows in zip(self.shelf, kept, strict=True):
                write_place(place, end - self.memory.rows, rows)

    def keys(self, attention: Any, hidden: Any, seen: Callable[[Any], Any]) -> Keys:
        """Return the keys of all that is kept and of hidden [B, T, D] behind it; hold those, too.

        Args:
            seen: makes of hidden states what attention sees of them.
        """
        before, T, S = self.before, hidden.shape[1], self.memory.rows + hidden.shape[1]
        new = hidden if before is None else ops.concatenate([ops.cast(before, hidden.dtype), hidden], axis=1)
        key, value = (_repeated(each, self.again) for each in attention.keys(seen(new[:, self.again :])))
        rows = [ops.expand_dims(new, 1), key, value]  # [B, 1 or N, M + T or T, D or H]
        if self.memory.end is not None:
            for place, row in zip(self.shelf, rows, strict=True):
                write_place(place, self.memory.end, row)
            first = self.memory.end - self.memory.rows
            key, value = (read_place(place, first, S) for place in self.shelf[1:])
        else:
            self.read = [ops.concatenate(each, axis=2) for each in zip(self.shelf, rows, strict=False)] or rows
            key, value = self.read[1:]
        return Keys(key, value, self._positions(attention, T, S))  # of [B, N, S, H]

    def move(self, count: int, rows: int) -> None:
        """Keep of the first `count` rows that many last ones; with zeros before them if there are not as many."""
        end = self.memory.end
        read = self.read if end is None else [read_place(kept, end - self.memory.rows, count) for kept in self.shelf]
        self.shelf = [kept[:, :, max(0, count - rows) : count] for kept in read]
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
    It is compiled anew, too, if the config or the memory's length has changed, and when it reads more than ever before.

    Raises:
        ConfigError: for a memory of another model, or from outside of other code that is being compiled.
    """
    body, settings, function = model.body(), None, None

    def stepped(state: dict[str, Any], *given: Any) -> tuple[Any, dict[str, Any]]:
        memory = KeyValueMemory().take(body, state)
        return read(memory, *given), memory.went_on(state)

    def step(memory: KeyValueMemory, *given: Any) -> Any:
        nonlocal settings, function
        memory._require_scope(type(body).__name__)
        same = memory.body is None or memory.body is body
        require_kept(type(body).__name__, False, same, memory.about, memory.about)
        if settings != (model.config, body.mem_len):
            settings, function = (model.config.copy(), body.mem_len), compiled_function(stepped, model)
        if memory.clamp_len != body.config.clamp_len:
            memory.reach = (0, 0)  # distances are encoded anew
        memory._make_room(memory.needed)
        found, state = function(memory.state(), *given)
        memory.go_on(body, state)
        return found

    return step


def _or_more(count: int) -> int:
    """Return that many or more: of few different numbers, so that code for one serves for others."""
    return max(FEW, 1 << (count - 1).bit_length())


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
