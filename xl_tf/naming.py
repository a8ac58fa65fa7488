"""Which Keras variable a canonical name stands for."""

from typing import Any

from xlcore.maps.keras import keras_name
from xlcore.params import Params


def variables_by_name(model: Any, table: Params) -> dict[str, Any]:
    """Find the variable of every parameter of a table: attribute by attribute along its name.

    A model with a head keeps its body under the family's prefix; the names of the body's parts do not say so.
    """
    found = {}
    for name, param in table.items():
        first, *rest = keras_name(name, param).split("/")
        owner = model if hasattr(model, first) else model.body()
        found[name] = _step(owner, first)
        for part in rest:
            found[name] = _step(found[name], part)
    return found


def _step(owner: Any, part: str) -> Any:
    return owner[int(part)] if part.isdigit() else getattr(owner, part)
