"""Memory that a model carries from call to call by itself."""

from typing import Any

import torch
from torch import Tensor, nn

from xl_torch.layers.key_values import KeyValueMemory
from xlcore.errors import ShapeError
from xlcore.memory import require_memory, require_memory_length


class CarriedMemory(nn.Module):
    """The memory of each layer between calls: what a training loop over consecutive segments reads and leaves.

    It is no parameter and is never saved. Off until `start`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.active = False
        self.count = 0

    def start(self, layers: int, batch_size: int, length: int, size: int, like: Tensor) -> None:
        """Carry `layers` memories of [B, M, D], zero at first, of the dtype and on the device of `like`."""
        self.stop()
        for number in range(layers):
            zeros = torch.zeros(batch_size, length, size, dtype=like.dtype, device=like.device)
            self.register_buffer(f"layer_{number}", zeros, persistent=False)
        self.active, self.count = True, layers

    def stop(self) -> None:
        """Carry nothing any longer, and hold nothing."""
        for number in range(self.count):
            delattr(self, f"layer_{number}")
        self.active, self.count = False, 0

    def reset(self) -> None:
        """Forget everything, as at the start of a text."""
        for state in self.states():
            state.zero_()

    def states(self) -> list[Tensor]:
        """Return the memories, one a layer."""
        return [getattr(self, f"layer_{number}") for number in range(self.count)]

    def read(self, where: str, batch_size: int) -> list[Tensor]:
        """Return the memories for a batch.

        Raises:
            ShapeError: if the batch has another size than the memory.
        """
        states = self.states()
        if states[0].shape[0] != batch_size:
            rows = states[0].shape[0]
            raise ShapeError(f"{where}: a batch must have the {rows} rows whose memory is carried, got {batch_size}")
        return [state.clone() for state in states]

    def keep(self, memories: list[Tensor]) -> None:
        """Leave the memories for the next call."""
        for state, memory in zip(self.states(), memories, strict=True):
            state.copy_(memory.detach())


class Memory:
    """The memory methods of a body that keeps the last `mem_len` positions of what it reads, and has a `CarriedMemory`.

    Where a text starts is the body's own: `start_length`, and `_from_start`, which makes hidden states [B, M, D] of the
    known layout, or of none.
    """

    mem_len: int
    carried: CarriedMemory
    start_length: Any
    _from_start: Any

    def init_mems(self, batch_size: int) -> list[Tensor] | None:
        """Return the memory that a text starts from, L x [M, B, D], or None for a model that keeps no fixed length."""
        if self.mem_len <= 0:
            return None
        like = next(self.parameters())
        shape = (self.start_length(), batch_size, self.config.hidden_size)
        zeros = torch.zeros(shape, dtype=like.dtype, device=like.device)
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
        self.carried.start(len(self.blocks), batch_size, length, size, next(self.parameters()))

    def reset_memory(self) -> None:
        """Forget what `carry_memory` carries, as at the start of a text."""
        self.carried.reset()

    def drop_memory(self) -> None:
        """End `carry_memory`."""
        self.carried.stop()

    def _carries(self, mems: Any) -> bool:
        """Tell whether a call with these `mems` reads what is carried, and leaves what it keeps there."""
        return mems is None and self.carried.active

    def _opened(self, mems: Any, known: Any, hidden: Tensor) -> tuple[Any, int]:
        """Return what each layer remembers before hidden [B, T, D], and M.

        These are hidden states [B, M, D], None if there are none; or layers of a `KeyValueMemory`, if `mems` is one.
        """
        if isinstance(mems, KeyValueMemory):
            return mems.open(self, hidden, lambda: self._from_start(known, hidden)), mems.length
        if self._carries(mems):
            memories = self.carried.read(type(self).__name__, hidden.shape[0])
        else:
            memories = self._from_start(known, hidden)
        return memories, 0 if memories is None else memories[0].shape[1]

    def _carry(self, mems: list[Tensor] | None, kept: list[Tensor]) -> None:
        """Leave what a call keeps for the next one, unless it had a memory of its own."""
        if self._carries(mems):
            self.carried.keep(kept)


class MemoryThroughBody:
    """The memory methods of a model with a head, which are those of its body."""

    def init_mems(self, batch_size: int) -> list[Tensor] | None:
        """Return the memory that a call without one starts from, L x [M, B, D], or None for a model without memory."""
        return self.body().init_mems(batch_size)

    def reset_memory_length(self, mem_len: int) -> None:
        """Keep `mem_len` positions from now on; the config stays as it is."""
        self.body().reset_memory_length(mem_len)

    def carry_memory(self, batch_size: int) -> None:
        """Start each call without `mems` from what the call before it left; see the body's `carry_memory`."""
        self.body().carry_memory(batch_size)

    def reset_memory(self) -> None:
        """Forget what `carry_memory` carries, as at the start of a text."""
        self.body().reset_memory()

    def drop_memory(self) -> None:
        """End `carry_memory`."""
        self.body().drop_memory()


def turned(memory: Tensor) -> Tensor:
    """Turn [M, B, D], as callers know it, into [B, M, D], or back."""
    return memory.transpose(0, 1)
