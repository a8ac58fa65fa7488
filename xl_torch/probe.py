"""The PyTorch side of a comparison: `python -m xl_torch.probe` (see `xlcore.probe`)."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from xl_torch.generation import generate
from xl_torch.model import Model, unstarted
from xlcore.probe import Answer, Job, Recorder, require_device, serve

VERSIONS = {"torch": torch.__version__}
Derivation = Callable[[], tuple[Any, dict[str, Any]]]
THREADS = torch.get_num_threads()
SMALL = 2**20  # parameters of a model whose threads would wait for each other far longer than they compute


def answer(job: Job) -> Answer:
    """Build the model, and do every task that the job names."""
    require_device(job.device, ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",))
    model = build(job)
    torch.set_num_threads(1 if sum(map(torch.numel, model.parameters())) <= SMALL else THREADS)
    result = Answer(facts={"versions": VERSIONS})
    if "static" in job.tasks:
        result.facts["shapes"] = {name: list(value.shape) for name, value in model.canonical_parameters().items()}
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
    """Make the model that the job names, with the job's weights, in evaluation mode."""
    module, _, name = job.model.partition(":")
    kind = getattr(importlib.import_module(module), name)
    with unstarted():
        model = kind(kind.family.config.from_dict(job.config)).to(job.device, getattr(torch, job.dtype)).eval()
    weights = job.weights()
    with torch.no_grad():
        for key, value in model.canonical_parameters().items():
            if key in weights:
                value.copy_(torch.from_numpy(weights[key]))
    return model


def called(model: Model, job: Job) -> Any:
    """Return what computes the model in the job's mode."""
    return torch.compile(model, fullgraph=True, dynamic=False) if job.mode == "compile" else model


def forward(model: Model, inputs: dict[str, Any], case: str, job: Job, result: Answer) -> None:
    """Compute outputs, and with labels the loss."""
    with torch.no_grad():
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
    result.add(f"gradients/{case}", values, take)


def scalar(model: Model, inputs: dict[str, Any]) -> Any:
    """Return the loss, or something like it where there is none."""
    output = model(**inputs)
    return output.loss if output.get("loss") is not None else output[0].square().mean()


def derivation(model: Model, inputs: dict[str, Any]) -> Derivation:
    """Return a function that computes the scalar, and its gradient by every parameter, zero if it has no part in it.

    Parameters that are not trained have none.
    """
    named = {name: value for name, value in model.canonical_parameters().items() if value.requires_grad}

    def derived() -> tuple[Any, dict[str, Any]]:
        loss = scalar(model, inputs)
        found = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
        return loss, dict(zip(named, found, strict=True))

    return derived


def train(model: Model, derivations: list[Derivation], job: Job, result: Answer) -> None:
    """Go down the gradient, plainly, over the cases in turn; keep losses, and parameters after 1 and all steps."""
    named = model.canonical_parameters()
    for step in range(1, job.steps + 1):
        loss, values = derivations[(step - 1) % len(derivations)]()
        for name, value in values.items():
            named[name].data = named[name].data - job.rate * value
        result.add("training", {f"loss.{step}": loss}, take)
        if step in (1, job.steps):
            result.add(f"training/step{step}", named, take)


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
    prefix = f"{model.family.prefix}."
    names = {id(module): f"{name}.".removeprefix(prefix).rstrip(".") for name, module in model.named_modules()}
    recorder = Recorder(Path(__file__).parent, lambda owner: names.get(id(owner)), taken_if_float)
    with torch.no_grad(), recorder:
        model(**inputs, **wanted(model, job))
    result.add(f"trace/{case}", recorder.arrays, take)
    result.facts.setdefault("lines", {})[case] = recorder.lines


TASKS = {"forward": forward, "trace": trace, "tokens": tokens}


def place(value: Any, job: Job) -> Any:
    """Bring inputs to the device, real numbers in the job's dtype."""
    if isinstance(value, list):
        return [place(each, job) for each in value]
    array = torch.from_numpy(np.ascontiguousarray(value)).to(job.device)
    return array.to(getattr(torch, job.dtype)) if array.is_floating_point() else array


def take(value: Any) -> np.ndarray:
    """Return a tensor as numpy; half precision as float32, which holds it exactly."""
    if isinstance(value, np.ndarray):
        return value
    value = value.detach().cpu()
    return (value.float() if value.dtype in (torch.float16, torch.bfloat16) else value).numpy().copy()


def taken_if_float(value: Any) -> np.ndarray | None:
    """Return a tensor of real numbers as numpy, and nothing for anything else."""
    real = isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter) and value.is_floating_point()
    return take(value) if real else None


if __name__ == "__main__":
    serve(answer)
