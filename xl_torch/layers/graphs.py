"""Reading on by CUDA graphs: all kernels of a step are started at once."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from xl_torch.layers.key_values import KeyValueMemory
from xlcore.memory import require_kept

TRIES = 3  # of a step before its graph is made


class FixedStep:
    """One call after a full memory, at places and of shapes that stay, as a CUDA graph must have it.

    Args:
        model, read, memory, given: see `compiled_reader`.
    """

    def __init__(
        self, model: Any, read: Callable[..., Tensor], memory: KeyValueMemory, given: Sequence[Tensor]
    ) -> None:
        self.model, self.read, self.memory, self.length = model, read, memory, memory.length
        self.weights = [(module._parameters, name) for module in model.modules() for name in module._parameters]
        with torch.inference_mode(False):
            self.given = [torch.empty_like(each) for each in given]
        self.made_for = (model.config.copy(), self._about(given))
        self.places: list[Tensor] = []  # what a graph reads and writes of the memory, once it has been read
        self.graph: Any = None

    def fits(self, memory: KeyValueMemory, given: Sequence[Tensor]) -> bool:
        """Return whether nothing has moved or changed since, but for values."""
        same = self.memory is memory and self.made_for == (self.model.config, self._about(given))
        places = self._places() if same else []
        return len(places) == len(self.places) and all(map(operator.is_, places, self.places))

    def __call__(self, given: Sequence[Tensor]) -> Tensor:
        """Read on; from the second time on by the graph, if it is on a GPU."""
        for mine, each in zip(self.given, given, strict=True):
            mine.copy_(each)
        self._to_front()
        if self.graph is None and self.places and _captures(self.places[0]):
            self._capture()
        if self.graph is None:
            self.found, self.places = self.run(), self._places()
        else:
            self.graph.replay()
        return self.found.clone()

    def run(self) -> Tensor:
        """Read on from the front, and have what is remembered then stand there again."""
        found = self.read(self.memory, *self.given)
        self._to_front()
        return found

    def _capture(self) -> None:
        """Make the graph. It is tried out before, and what that has changed is set back."""
        before = [(kept, kept.clone()) for layer in self.memory.layers for kept in layer.shelf]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(TRIES):
                self.run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.found = self.run()
        finally:
            for kept, values in before:
                kept.copy_(values)
        self.graph = graph

    def _to_front(self) -> None:
        """Move what is remembered to the front of its places."""
        start, end = self.memory.start, self.memory.end
        for layer in self.memory.layers if start else ():
            for kept in layer.shelf:
                kept[:, :, : self.length] = kept[:, :, start:end].clone()
        self.memory.start, self.memory.end = 0, self.length

    def _about(self, given: Sequence[Tensor]) -> Any:
        """Return what a graph takes for granted: the memory's length, what is given, and where the weights are."""
        kinds = [(each.shape, each.dtype, each.device) for each in given]
        weights = (named[name] for named, name in self.weights)  # of modules that were walked through once
        return self.model.body().mem_len, kinds, [None if each is None else each.data_ptr() for each in weights]

    def _places(self) -> list[Tensor]:
        return [each for layer in self.memory.layers for each in (*layer.shelf, layer.position)]


def compiled_reader(model: Any, read: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return `read(memory, *given)`, which calls the model, as one CUDA graph for all calls of the same shapes.

    A graph starts all its kernels at once. It begins with the second call after a full memory (`mem_len` positions),
    for then each call reads as much as the one before; and anew for other shapes, another memory, rows that are chosen,
    or a changed config. All else is read as it is, as is everything on other devices, by the same step without a graph.

    Args:
        model: in evaluation, on one device.
        read: calls the model once, and returns a tensor. It waits for no value: `likeliest` does.

    Raises:
        ConfigError: for a memory of another model, and in training.
    """
    body, step = model.body(), None

    @torch.no_grad()
    def read_on(memory: KeyValueMemory, *given: Tensor) -> Tensor:
        nonlocal step
        first = memory.body is None
        require_kept(type(body).__name__, body.training, first or memory.body is body, memory.about, memory.about)
        if first or memory.length == 0 or memory.length != body.mem_len:
            return read(memory, *given)
        if step is None or not step.fits(memory, given):
            step = FixedStep(model, read, memory, given)
        return step(given)

    return read_on


def _captures(place: Tensor) -> bool:
    return place.is_cuda
