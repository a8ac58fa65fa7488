"""One gradient for a table that embeds words and scores them: two would take twice its memory."""

from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class Shared:
    """A table that embeds words and scores them, while a model computes; `again`: as its scores read it."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.again: Tensor | None = None


_shared: ContextVar[tuple[Shared, ...]] = ContextVar("_shared", default=())


def one_gradient(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Have a model's embedding and its `lm_head` or `crit`, where they share tables, fill one gradient for each."""

    @wraps(forward)
    def computed(self: Any, *inputs: Any, **keys: Any) -> Any:
        scored = self.crit.bins if getattr(self, "lm_head", None) is None else [self.lm_head]
        weights = [each.weight for each in scored if each.weight is not None and each.weight.requires_grad]
        if torch.compiler.is_compiling() or not (weights and torch.is_grad_enabled()):
            return forward(self, *inputs, **keys)
        token = _shared.set(tuple(map(Shared, weights)))
        try:
            return forward(self, *inputs, **keys)
        finally:
            _shared.reset(token)

    return computed


def looked_up(weight: Tensor, ids: Tensor, padding: int | None = None) -> Tensor:
    """Return rows of a table, [..., D]; that of `padding` learns nothing."""
    shared = _shared_by(weight)
    if shared is None or shared.again is not None:
        return F.embedding(ids, weight, padding)
    rows, shared.again = _Lookup.apply(weight, ids, padding)
    return rows


def read_again(weight: Tensor) -> Tensor:
    """Return a table as what reads it after the embedding must read it."""
    shared = _shared_by(weight)
    return weight if shared is None or shared.again is None else shared.again


def _shared_by(weight: Tensor) -> Shared | None:
    """Return the table that is shared now, if it is one of those."""
    shared = () if torch.compiler.is_compiling() else _shared.get()
    return next((each for each in shared if each.weight is weight), None)


class _Lookup(torch.autograd.Function):
    """Rows of a table, and the table again, whose gradient takes up that of the rows in place."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding: int | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(ids)
        ctx.padding, ctx.size = padding, weight.shape
        ctx.set_materialize_grads(False)
        return F.embedding(ids, weight), weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_rows: Tensor | None, by_table: Tensor | None) -> tuple[Tensor | None, None, None]:
        if by_rows is None:
            return by_table, None, None
        (ids,) = ctx.saved_tensors
        by_table = by_rows.new_zeros(ctx.size) if by_table is None else by_table
        by_rows = by_rows if ctx.padding is None else by_rows.masked_fill((ids == ctx.padding)[..., None], 0.0)
        return by_table.index_add_(0, ids.flatten(), by_rows.flatten(0, -2).to(by_table.dtype)), None, None
