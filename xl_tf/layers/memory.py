"""Memory that a model carries from call to call by itself."""

from typing import Any

import keras
from keras import ops

from xl_tf.layers.key_values import KeyValueMemory
from xlcore.errors import ShapeError
from xlcore.memory import require_memory, require_memory_length


class CarriedMemory(keras.Layer):
    """The memory of each layer between calls: what a training loop over consecutive segments reads and leaves.

    It is no parameter and is never saved. Off until `start`.
    """

    def __init__(self) -> None:
        super().__init__(trainable=False, autocast=False)
        self.active = False
        self.count = 0
        self.built = True

    def start(self, layers: int, batch_size: int, length: int, size: int, dtype: str) -> None:
        """Carry `layers` memories of [B, M, D], zero at first, of the given dtype."""
        self.stop()
        for number in range(layers):
            shape = (batch_size, length, size)
            zeros = self.add_weight(shape, initializer="zeros", dtype=dtype, trainable=False, autocast=False)
            setattr(self, f"layer_{number}", zeros)
        self.active, self.count = True, layers

    def take(self, other: "CarriedMemory") -> None:
        """Carry from now on what another one carries, if it does."""
        if other.active:
            states = other.states()
            self.start(len(states), *states[0].shape, states[0].dtype)
            self.keep(states)

    def stop(self) -> None:
        """Carry nothing any longer, and hold nothing."""
        for number in range(self.count):
            delattr(self, f"layer_{number}")
        self.active, self.count = False, 0

    def reset(self) -> None:
        """Forget everything, as at the start of a text."""
        for state in self.states():
            state.assign(ops.zeros(state.shape, dtype=state.dtype))

    def states(self) -> list[Any]:
        """Return the memories, one a layer."""
        return [getattr(self, f"layer_{number}") for number in range(self.count)]

    def read(self, where: str, batch_size: Any) -> list[Any]:
        """Return the memories for a batch.

        Raises:
            ShapeError: if the batch has another size than the memory.
        """
        states = self.states()
        if isinstance(batch_size, int) and states[0].shape[0] != batch_size:
            rows = states[0].shape[0]
            raise ShapeError(f"{where}: a batch must have the {rows} rows whose memory is carried, got {batch_size}")
        return [ops.convert_to_tensor(state) for state in states]

    def keep(self, memories: list[Any]) -> None:
        """Leave the memories for the next call."""
        for state, memory in zip(self.states(), memories, strict=True):
            state.assign(ops.stop_gradient(memory))

    def save_own_variables(self, store: Any) -> None:
        """Save nothing."""

    def load_own_variables(self, store: Any) -> None:
        """Load nothing."""


class Memory:
    """The memory methods of a body that keeps the last `mem_len` positions of what it reads, and has a `CarriedMemory`.

    Where a text starts is the body's own: `start_length`, and `_from_start`, which makes hidden states [B, M, D] of the
    known layout, or of none.
    """

    mem_len: int
    carried: CarriedMemory
    start_length: Any
    _from_start: Any

    def init_mems(self, batch_size: int) -> list[Any] | None:
        """Return the memory that a text starts from, L x [M, B, D], or None for a model that keeps no fixed length."""
        if self.mem_len <= 0:
            return None
        shape = (self.start_length(), batch_size, self.config.hidden_size)
        zeros = ops.zeros(shape, dtype=self.compute_dtype)
        return [zeros for _ in self.blocks]

    def reset_memory_length(self, mem_len: int) -> None:
        """Keep `mem_len` positions from now on; the config stays as it is.

        Raises:
            ConfigError: for no whole number, and while a memory is carried, whose length is fixed.
        """
        require_memory_length(type(self).__name__, mem_len, self.carried.active)
        self.mem_len = mem_len

    def carry_memory(self, batch_size: int) -> None:
        """From now on start each call without `mems` from the memory that the call before it left, row by row.

        For loops over consecutive segments of `batch_size` texts. `reset_memory` forgets, `drop_memory` ends it.
        """
        length = self.start_length()
        require_memory(type(self).__name__, length, batch_size)
        size = self.config.hidden_size
        self.carried.start(len(self.blocks), batch_size, length, size, self.compute_dtype)
        self.forget_traces()

    def reset_memory(self) -> None:
        """Forget what `carry_memory` carries, as at the start of a text."""
        self.carried.reset()

    def drop_memory(self) -> None:
        """End `carry_memory`."""
        self.carried.stop()
        self.forget_traces()

    def keep_settings(self, before: Any) -> None:
        """Take over the memory's length, and the memory that is carried."""
        super().keep_settings(before)
        self.mem_len = before.mem_len
        self.carried.take(before.carried)

    def _carries(self, mems: Any) -> bool:
        """Tell whether a call with these `mems` reads what is carried, and leaves what it keeps there."""
        return mems is None and self.carried.active

    def _opened(self, mems: Any, known: Any, hidden: Any, training: bool | None) -> tuple[Any, Any]:
        """Return what each layer remembers before hidden [B, T, D], and M.

        These are hidden states [B, M, D], None if there are none; or layers of a `KeyValueMemory`, if `mems` is one.
        """
        if isinstance(mems, KeyValueMemory):
            return mems.open(self, hidden, training, lambda: self._from_start(known, hidden)), mems.rows
        if self._carries(mems):
            memories = self.carried.read(type(self).__name__, hidden.shape[0])
        else:
            memories = self._from_start(known, hidden)
        return memories, 0 if memories is None else ops.shape(memories[0])[1]

    def _carry(self, mems: list[Any] | None, kept: list[Any]) -> None:
        """Leave what a call keeps for the next one, unless it had a memory of its own."""
        if self._carries(mems):
            self.carried.keep(kept)


class MemoryThroughBody:
    """The memory methods of a model with a head, which are those of its body."""

    def init_mems(self, batch_size: int) -> list[Any] | None:
        """Return the memory that a call without one starts from, L x [M, B, D], or None for a model without memory."""
        return self.body().init_mems(batch_size)

    def reset_memory_length(self, mem_len: int) -> None:
        """Keep `mem_len` positions from now on; the config stays as it is."""
        self.body().reset_memory_length(mem_len)

    def carry_memory(self, batch_size: int) -> None:
        """Start each call without `mems` from what the call before it left; see the body's `carry_memory`."""
        self.body().carry_memory(batch_size)
        self.forget_traces()

    def reset_memory(self) -> None:
        """Forget what `carry_memory` carries, as at the start of a text."""
        self.body().reset_memory()

    def drop_memory(self) -> None:
        """End `carry_memory`."""
        self.body().drop_memory()
        self.forget_traces()


def turned(memory: Any) -> Any:
    """Turn [M, B, D], as callers know it, into [B, M, D], or back."""
    return ops.transpose(memory, (1, 0, 2))
