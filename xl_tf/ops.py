"""Spelling: what Keras says in more words than the code has room for, or not at all."""

from typing import Any

import keras
import ml_dtypes
import optree
from keras import ops


def precise(dtype: str) -> str:
    """Return float32, or the dtype itself if that is wider."""
    # not by Keras' rules of promotion: on JAX they make float32 of float64
    return "float64" if keras.backend.standardize_dtype(dtype) == "float64" else "float32"


def lowest(dtype: str) -> float:
    """Return a number so low that its exponential is zero: the lowest of a dtype, or of float32 for wider ones."""
    info = ml_dtypes.finfo(keras.backend.standardize_dtype(dtype))
    return max(float(info.min), float(ml_dtypes.finfo("float32").min))


def softmax(scores: Any) -> Any:
    """Return the softmax over the last axis; Keras warns where there is one entry, which is no mistake here.

    One entry has a share of 1 and a gradient of 0, which must still arrive.
    """
    return 0 * scores + 1 if scores.shape[-1] == 1 else ops.softmax(scores)


def pick(values: Any, entries: Any) -> Any:
    """Return from each row, [..., V], the entry that `entries`, [...], names."""
    return ops.take_along_axis(values, entries[..., None], axis=-1)[..., 0]


def at_hand(array: Any) -> Any:
    """Return an array as numpy if it lies ready on the CPU, else None: in a graph, or on an accelerator."""
    try:
        return ops.convert_to_numpy(array) if "CPU" in str(array.device).upper() else None
    except Exception:  # each framework has its own error for a tensor that has no value yet
        return None


def know_output(output: type) -> None:
    """Have Keras, and JAX where it computes, look into a class of outputs as into a dictionary."""

    def make(names: list[str], values: Any) -> Any:
        return output(zip(names, values, strict=True))

    optree.register_pytree_node(output, lambda out: (list(out.values()), list(out), list(out)), make, namespace="keras")
    if keras.backend.backend() == "jax":
        from jax.tree_util import register_pytree_node

        register_pytree_node(output, lambda out: (tuple(out.values()), tuple(out)), make)
