"""A process with two devices of which a Keras model takes both; not a test.

python -m tests.models.sharded_keras jax FOLDER
python -m tests.models.sharded_keras tensorflow FOLDER
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ["KERAS_BACKEND"] = sys.argv[1]
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import keras
import numpy as np

import xl_tf
from tests.helpers import HEADS, KERAS, random_weights

NAMES = ("TransfoXLLMHeadModel", "XLNetLMHeadModel", "XLMWithLMHeadModel", "XLMRobertaXLForMaskedLM")
FEW = ("TransfoXLLMHeadModel", "XLMRobertaXLForMaskedLM")
EVEN = {"d_inner": 20, "n_head": 4, "n_heads": 4, "num_attention_heads": 4, "vocab_size": 32, "cutoffs": [10, 18]}
STEADY = {
    "dropout": 0.0, "dropatt": 0.0, "attention_dropout": 0.0, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


def model_of(name: str) -> Any:
    """Make a model whose heads two devices can share, with random weights."""
    case = next(case for case in HEADS if case.head.name == name)
    known = type(case.config()).fields
    config = case.config(**{key: value for key, value in {**EVEN, **STEADY}.items() if key in known})
    model = getattr(xl_tf, f"TF{name}")(config)
    KERAS.set(model, random_weights(case, config))
    return model


def batch(model: Any) -> dict[str, np.ndarray]:
    """Draw four texts in which every word counts, so that the mean over halves is the mean over all."""
    ids = np.random.default_rng(4).integers(3, model.config.vocab_size, (4, 6)).astype("int32")
    return {"input_ids": ids, "labels": ids}


def computed(model: Any) -> tuple[float, list[np.ndarray]]:
    """Return loss and gradients, compiled: one by one JAX would compile every operation."""
    import jax

    variables, inputs = list(model.canonical_parameters().values()), batch(model)

    def loss(values: list[Any]) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return model(inputs).loss

    found, gradients = jax.jit(jax.value_and_grad(loss))([variable.value for variable in variables])
    return float(found), [np.asarray(each) for each in gradients]


def trained(model: Any, **how: Any) -> list[float]:
    """Train a few steps with `fit`, and return the losses."""
    model.compile(optimizer=keras.optimizers.SGD(0.1), **how)
    inputs = batch(model)
    history = model.fit(inputs, batch_size=4, epochs=3, shuffle=False, verbose=0)
    return [float(loss) for loss in history.history["loss"]]


def on_jax(folder: Path) -> dict[str, Any]:
    """Deal out models to two devices; return how far they are from one, and how much each device holds."""
    from xl_tf import sharding

    mesh, found = keras.distribution.DeviceMesh((1, 2), ["batch", "model"]), {}
    for name in NAMES:
        model = model_of(name)
        model.save_pretrained(folder / name)
        loss, gradients = computed(model)
        for way in ("shard_fully", "split") if name in FEW else ("split",):
            make = getattr(sharding, way)
            other = type(model).from_pretrained(folder / name, shard=lambda model, make=make: make(model, mesh))
            after, others = computed(other)
            values = list(other.canonical_parameters().values())
            held = sum(value.value.addressable_shards[0].data.size for value in values)
            other.save_pretrained(folder / f"{name}-{way}")
            apart = max(float(np.abs(one - two).max()) for one, two in zip(gradients, others, strict=True))
            total = sum(int(np.prod(value.shape)) for value in values)
            found[f"{name}-{way}"] = {"loss": [loss, after], "apart": apart, "held": held / total}
    found["fit"] = [trained(model_of(NAMES[-1]))]
    map_ = keras.distribution.LayoutMap(mesh)
    keras.distribution.set_distribution(keras.distribution.ModelParallel(layout_map=map_, batch_dim_name="batch"))
    model = sharding.split(model_of(NAMES[-1]), mesh)
    found["fit"].append(trained(model))
    return found


def on_tensorflow(folder: Path) -> dict[str, Any]:
    """Copy models to two devices, which share each batch; return the losses of `fit` with one and with both."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    found: dict[str, Any] = {}
    for name in FEW:
        model = model_of(name)
        model.save_pretrained(folder / name)
        alone = trained(model)
        summed = tf.distribute.ReductionToOneDevice()  # what it takes for several CPUs by itself mixes tensors up
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], summed)
        with strategy.scope():
            copies = type(model).from_pretrained(folder / name)
            both = trained(copies)
        copies.save_pretrained(folder / f"{name}-mirrored")
        model.save_pretrained(folder / f"{name}-alone")
        one, two = KERAS.weights(model), KERAS.weights(copies)
        apart = max(float(np.abs(one[key] - two[key]).max()) for key in one)
        again = type(model).from_pretrained(folder / f"{name}-mirrored")
        kept = all(np.array_equal(value, two[key]) for key, value in KERAS.weights(again).items())
        found[name] = {"alone": alone, "both": both, "apart": apart, "kept": kept}
    return found


def main(backend: str, folder: Path) -> None:
    """Do everything on one framework, and write what was found."""
    found = on_jax(folder) if backend == "jax" else on_tensorflow(folder)
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
