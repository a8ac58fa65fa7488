"""One gradient for a table that embeds words and scores them: two would take twice its memory.

On TensorFlow; JAX keeps its own way. Not where a layer is computed anew on the way back.
"""

from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import Any

from keras import ops

from xl_tf.backend import records, rewriting, with_rows_added


class Shared:
    """A table that embeds words and scores them, while a model computes; `again`: as its scores read it."""

    def __init__(self, weight: Any) -> None:
        self.weight = weight
        self.again: Any = None


_shared: ContextVar[tuple[Shared, ...]] = ContextVar("_shared", default=())


def one_gradient(call: Callable[..., Any]) -> Callable[..., Any]:
    """Have a model's embedding and its `lm_head` or `crit`, where they share tables, fill one gradient for each."""

    @wraps(call)
    def computed(self: Any, *inputs: Any, **keys: Any) -> Any:
        scored = self.crit.bins if getattr(self, "lm_head", None) is None else [self.lm_head]
        weights = [each.weight for each in scored if each.weight is not None and each.weight.trainable]
        if not (weights and records()):
            return call(self, *inputs, **keys)
        token = _shared.set(tuple(map(Shared, weights)))
        try:
            return call(self, *inputs, **keys)
        finally:
            _shared.reset(token)

    return computed


def looked_up(weight: Any, ids: Any, padding: int | None = None) -> Any:
    """Return rows of a table, [..., D]; that of `padding` learns nothing."""
    shared = _shared_by(weight)
    if shared is None or shared.again is not None or not records():
        rows = ops.take(weight, ids, axis=0)
        return rows if padding is None else ops.where((ids == padding)[..., None], ops.stop_gradient(rows), rows)
    table = ops.convert_to_tensor(weight)
    rows, shared.again = _Lookup.forward(ops.cast(table, table.dtype), ids, padding)  # what the variable holds
    return rows


def read_again(weight: Any) -> Any:
    """Return a table as what reads it after the embedding must read it."""
    shared = _shared_by(weight)
    return weight if shared is None or shared.again is None else shared.again


def _shared_by(weight: Any) -> Shared | None:
    """Return the table that is shared now, if it is one of those."""
    return next((each for each in _shared.get() if each.weight is weight), None)


class _Lookup:
    """Rows of a table, and the table again, whose gradient takes up that of the rows in place."""

    @staticmethod
    def forward(weight: Any, ids: Any, padding: int | None) -> tuple[Any, Any]:
        """Return rows, [..., D], and the table."""
        takes = rewriting()

        @ops.custom_gradient
        def computed(weight: Any) -> Any:
            return (ops.take(weight, ids, axis=0), weight), lambda *back: _Lookup.backward(ids, padding, takes, *back)

        return computed(weight)

    @staticmethod
    def backward(ids: Any, padding: int | None, takes: str, by_rows: Any, by_table: Any) -> Any:
        """Return the gradient by the table."""
        by_rows = by_rows if padding is None else ops.where((ids == padding)[..., None], 0, by_rows)
        return with_rows_added(by_table, ids, by_rows, takes)
