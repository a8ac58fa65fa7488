"""Models on several devices, by Keras' own engine on JAX; how each parameter is dealt out stands in `xlcore/plans.py`.

A mesh is a `keras.distribution.DeviceMesh`. A model that is dealt out is called, trained, saved and loaded as any
other. To load one that no device holds alone, give `from_pretrained` one of these functions:
`shard=lambda model: split(model, mesh)`. On TensorFlow, models are copied to several devices under a
`tf.distribute.MirroredStrategy`, which needs none of this.
"""

from collections.abc import Sequence
from typing import Any

import keras

from xl_tf.model import Model
from xl_tf.naming import turned
from xlcore.errors import ConfigError
from xlcore.plans import plan_for


def shard_fully(model: Model, mesh: keras.distribution.DeviceMesh) -> Model:
    """Deal out every parameter evenly, and gather those of a layer when its turn comes (Rajbhandari et al., 2020).

    Each along its larger axis; what is not a multiple of the devices there stays whole.

    Args:
        model: changed in place.
        mesh: its last dimension is dealt out to.

    Returns:
        The model.

    Raises:
        ConfigError: if Keras computes by something else than JAX.
    """
    parts = _parts(model, mesh)
    for variable in model.canonical_parameters().values():
        sizes = [size if size % parts == 0 else 0 for size in variable.shape]
        _lay(variable, mesh, sizes.index(max(sizes)) if any(sizes) else None)
    return model


def split(model: Model, mesh: keras.distribution.DeviceMesh) -> Model:
    """Cut every layer into equal parts, some heads and inner units each (Shoeybi et al., 2019, section 3).

    Tables of words are cut, too, where their words can be dealt out evenly.

    Args:
        model: changed in place.
        mesh: its last dimension is dealt out to.

    Returns:
        The model.

    Raises:
        ConfigError: if heads or inner units cannot be dealt out evenly, or Keras computes by something else than JAX.
    """
    plan = plan_for(type(model).__name__, model.family, model.config, model.head, _parts(model, mesh))
    parameters = model.canonical_parameters()
    for name, cut in plan.items():
        axis = cut.axis if cut.axis is None or not turned(model, name) else 1 - cut.axis
        _lay(parameters[name], mesh, axis)
    return model


def _parts(model: Model, mesh: keras.distribution.DeviceMesh) -> int:
    """Return to how many devices a model is dealt out."""
    backend = keras.backend.backend()
    if backend != "jax":
        where, hint = type(model).__name__, "for TensorFlow see tf.distribute.MirroredStrategy"
        raise ConfigError(f"{where}: Keras must run on jax to deal out a model, got {backend}; {hint}")
    return int(mesh.shape[-1])


def _lay(variable: Any, mesh: keras.distribution.DeviceMesh, axis: int | None) -> None:
    """Lay a variable along one of its axes over the last dimension of a mesh; whole on each device if None."""
    names: Sequence[str | None] = [mesh.axis_names[-1] if number == axis else None for number in range(variable.ndim)]
    variable._layout = keras.distribution.TensorLayout(names, mesh)  # Keras has no public word for it afterwards
    if variable._value is not None:
        variable.assign(variable.value)
