"""The Keras side of a comparison: `python -m xl_tf.probe` (see `xlcore.probe`)."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from xl_tf.backend import compiled, devices, keep_float64, value_and_gradients, version
from xl_tf.generation import generate
from xl_tf.model import Model, unstarted
from xl_tf.naming import layers_by_name, parameters, turned
from xlcore.probe import Answer, Job, Recorder, require_device, serve

VERSIONS = version()
Derivation = Callable[[], tuple[Any, dict[str, Any]]]


def answer(job: Job) -> Answer:
    """Build the model, and do every task that the job names."""
    require_device(job.device, devices())
    model = build(job)
    result = Answer(facts={"versions": VERSIONS})
    if "static" in job.tasks:
        shapes = {name: list(value.shape) for name, value in parameters(model).items()}
        result.facts["shapes"] = {name: shapes[name][::-1] if turned(model, name) else shapes[name] for name in shapes}
    cases = {case: {name: place(value, job) for name, value in each.items()} for case, each in job.cases().items()}
    derivations = {case: derivation(model, inputs) for case, inputs in cases.items()}
    for case, inputs in cases.items():
        for task in ("forward", "trace", "tokens"):
            if task in job.tasks:
                TASKS[task](model, inputs, case, job, result)
        if "gradients" in job.tasks:
            gradients(model, derivations[case], case, result)
    if "training" in job.tasks:  # last, for it changes the model
        train(model, list(derivations.values()), job, result)
    return result


def build(job: Job) -> Model:
    """Make the model that the job names, with the job's weights."""
    module, _, name = job.model.partition(":")
    kind = getattr(importlib.import_module(module), name)
    with unstarted():
        model = kind(kind.family.config.from_dict(job.config), dtype=job.dtype)
    weights = job.weights()
    for key, value in parameters(model).items():
        if key in weights:
            value.assign(weights[key].T if turned(model, key) else weights[key])
    return model


def called(model: Model, job: Job) -> Any:
    """Return what computes the model in the job's mode."""
    return compiled(model, job.mode, ("output_hidden_states", "output_attentions"))


def forward(model: Model, inputs: dict[str, Any], case: str, job: Job, result: Answer) -> None:
    """Compute outputs, and with labels the loss."""
    output = called(model, job)(**inputs, **wanted(model, job))
    result.add(f"outputs/{case}", output, take)
    if (rest := job.unlabelled(case, inputs, model.head.targets)) is not None:
        result.add(f"outputs/{case}/unlabelled", called(model, job)(**rest), take)


def wanted(model: Model, job: Job) -> dict[str, Any]:
    """Ask for everything that shows what happens inside; compiled modes compute as users run them."""
    return {"output_hidden_states": True, "output_attentions": job.mode == "eager"}


def gradients(model: Model, derived: Derivation, case: str, result: Answer) -> None:
    """Compute the gradient of the loss by every parameter; without a loss, of the mean square of the first output."""
    _, values = derived()
    values = {name: ops.transpose(value) if turned(model, name) else value for name, value in values.items()}
    result.add(f"gradients/{case}", values, take)


def scalar(model: Model, inputs: dict[str, Any]) -> Any:
    """Return the loss, or something like it where there is none."""
    output = model(**inputs)
    return output.loss if output.get("loss") is not None else ops.mean(ops.square(output[0]))


def derivation(model: Model, inputs: dict[str, Any]) -> Derivation:
    """Return a function that computes the scalar, and its gradient by every parameter, zero if it has no part in it.

    Parameters that are not trained have none.
    """
    named = {name: value for name, value in parameters(model).items() if value.trainable}
    compute = value_and_gradients(lambda: scalar(model, inputs), list(named.values()))

    def derived() -> tuple[Any, dict[str, Any]]:
        loss, found = compute()
        return loss, dict(zip(named, found, strict=True))

    return derived


def train(model: Model, derivations: list[Derivation], job: Job, result: Answer) -> None:
    """Go down the gradient, plainly, over the cases in turn; keep losses, and parameters after 1 and all steps."""
    named = parameters(model)
    for step in range(1, job.steps + 1):
        loss, values = derivations[(step - 1) % len(derivations)]()
        for name, value in values.items():
            named[name].assign(named[name].value - job.rate * value)
        result.add("training", {f"loss.{step}": loss}, take)
        if step in (1, job.steps):
            after = {name: take(value).T if turned(model, name) else take(value) for name, value in named.items()}
            result.add(f"training/step{step}", after, take)


def tokens(model: Model, inputs: dict[str, Any], case: str, job: Job, result: Answer) -> None:
    """Continue the texts greedily."""
    if job.brings_text(case) and continues(model):
        texts = generate(model, inputs["input_ids"], job.steps)
        result.add(f"tokens/{case}", {"tokens": texts}, take)


def continues(model: Model) -> bool:
    """Return whether the model continues texts."""
    config, kind = model.config, model.head.kind
    if kind == "permutation_lm":  # a guess must see the text before it
        return not (config.attn_type == "uni" and config.same_length)
    return kind in ("causal_lm", "word_lm") or (kind == "decoder_lm" and config.is_decoder)


def trace(model: Model, inputs: dict[str, Any], case: str, job: Job, result: Answer) -> None:
    """Record every step of the computation."""
    names = {id(layer): name for name, layer in layers_by_name(model, f"{model.family.prefix}.").items()}
    names[id(model.body())] = ""
    recorder = Recorder(Path(__file__).parent, lambda owner: names.get(id(owner)), taken_if_float)
    with recorder:
        model(**inputs, **wanted(model, job))
    result.add(f"trace/{case}", recorder.arrays, take)
    result.facts.setdefault("lines", {})[case] = recorder.lines


TASKS = {"forward": forward, "trace": trace, "tokens": tokens}


def place(value: Any, job: Job) -> Any:
    """Bring inputs to the device, real numbers in the job's dtype."""
    if isinstance(value, list):
        return [place(each, job) for each in value]
    return ops.convert_to_tensor(value, dtype=job.dtype if value.dtype.kind == "f" else None)


def take(value: Any) -> np.ndarray:
    """Return a tensor as numpy; half precision as float32, which holds it exactly."""
    if isinstance(value, np.ndarray):
        return value
    dtype = keras.backend.standardize_dtype(value.dtype)
    return np.array(ops.convert_to_numpy(ops.cast(value, "float32") if dtype in ("float16", "bfloat16") else value))


def taken_if_float(value: Any) -> np.ndarray | None:
    """Return a tensor of real numbers as numpy, and nothing for anything else."""
    real = ops.is_tensor(value) and "float" in keras.backend.standardize_dtype(value.dtype)
    return take(value) if real else None


if __name__ == "__main__":
    keep_float64()
    serve(answer)
