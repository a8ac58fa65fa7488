"""Memory that a model carries from call to call by itself."""

import torch
from torch import Tensor, nn

from xlcore.errors import ShapeError


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
