"""What only the framework under Keras can do: derive, compile, and tell its version. No model uses it."""

import importlib
from collections.abc import Callable
from typing import Any

import keras


def version() -> dict[str, str]:
    """Return name and version of what computes under Keras."""
    name = keras.backend.backend()
    return {"keras": keras.__version__, name: str(importlib.import_module(name).__version__)}


def compiled(model: Any, mode: str, static: tuple[str, ...] = ()) -> Any:
    """Return a function that computes the model in a mode: `eager`, `graph` or `xla` (on JAX the last two are one).

    Args:
        static: arguments that are no arrays.
    """
    if mode == "eager":
        return model
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(lambda **inputs: model(**inputs), static_argnames=static)
    import tensorflow

    return tensorflow.function(lambda **inputs: model(**inputs), jit_compile=mode == "xla", autograph=False)


def value_and_gradients(function: Callable[[], Any], variables: list[Any]) -> tuple[Any, list[Any]]:
    """Return what a function computes, and its gradient by variables, None where it does not depend on one."""
    if keras.backend.backend() == "jax":
        import jax

        def of(values: list[Any]) -> Any:
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return function()

        return jax.value_and_grad(of)([variable.value for variable in variables])
    import tensorflow

    with tensorflow.GradientTape() as tape:
        value = function()
    found = tape.gradient(value, [variable.value for variable in variables])
    return value, [None if each is None else tensorflow.convert_to_tensor(each) for each in found]
