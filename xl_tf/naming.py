"""Which Keras variable a canonical name stands for: the path of attributes, with Keras' own last word."""

from typing import Any

import keras

from xlcore.maps.keras import is_turned, keras_name
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


def layers_by_name(model: Any, prefix: str) -> dict[str, Any]:
    """Return every layer within a model by its canonical name, the model itself as `""`."""
    found: dict[str, Any] = {}

    def visit(name: str, layer: Any) -> None:
        found[name.removeprefix(prefix).strip(".")] = layer
        for attribute, value in vars(layer).items():
            if attribute.startswith("_"):
                continue
            for number, each in enumerate(value) if isinstance(value, list | tuple) else [("", value)]:
                if isinstance(each, keras.Layer):
                    visit(f"{name}.{attribute}.{number}".strip("."), each)

    visit("", model)
    return found


def parameters(model: Any) -> dict[str, Any]:
    """Return every variable that is trained, by name: those of the table, and those of a head of somebody's own."""
    found = dict(model.canonical_parameters())
    seen = {id(variable) for variable in found.values()}
    for name, layer in layers_by_name(model, f"{model.family.prefix}.").items():
        words = [("kernel", "weight"), ("gamma", "weight"), ("beta", "bias")]
        words += [(word, word) for word in vars(layer) if not word.startswith("_")]
        for keras_word, word in words:
            variable = getattr(layer, keras_word, None)
            if isinstance(variable, keras.Variable) and variable.trainable and id(variable) not in seen:
                seen.add(id(variable))
                found[f"{name}.{word}".strip(".")] = variable
    return found


def turned(model: Any, name: str) -> bool:
    """Tell whether Keras keeps a parameter the other way round."""
    table = model.family.params(model.config, model.head)
    if name in table:
        return is_turned(name, table[name])
    owner = layers_by_name(model, f"{model.family.prefix}.").get(name.rpartition(".")[0])
    return isinstance(owner, keras.layers.Dense) and name.endswith(".weight")


def _step(owner: Any, part: str) -> Any:
    return owner[int(part)] if part.isdigit() else getattr(owner, part)
