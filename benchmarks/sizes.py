"""How much memory do the large models take: at rest, while they answer, and while they learn?

    python benchmarks/sizes.py

Arithmetic over the parameter tables, nothing is measured. Prints two tables, as they stand in `docs/large-models.md`.
"""

import sys
from typing import Any

from sides import ROOT

sys.path.insert(0, str(ROOT))

import numpy as np

from xlcore.config import Config
from xlcore.families import FAMILIES, find_head_by_name

FAMILY, HEAD = FAMILIES["xlm-roberta-xl"], "XLMRobertaXLForMaskedLM"
MODELS = {"XL": "xlm-roberta-xl", "XXL": "xlm-roberta-xxl"}
LINEAR = ("attention", "feed_forward", "transform")  # parts whose matrices become int8
ADAM = {"float32": 16, "all in bfloat16": 8}  # bytes of a weight, its gradient and its two moments
DEVICES = (1, 2, 4, 8)


def params_of(config: Config) -> dict[str, Any]:
    """Return the parameter table of the masked language model."""
    return dict(FAMILY.params(config, find_head_by_name(HEAD)))


def count(params: dict[str, Any]) -> int:
    """Return how many numbers parameters hold."""
    return sum(int(np.prod(param.shape)) for param in params.values())


def int8_bytes(params: dict[str, Any]) -> int:
    """Return the bytes with the matrices of linear maps in int8, a scale for each output, and all else in bfloat16."""
    small = {
        name: param
        for name, param in params.items()
        if param.kind == "linear" and len(param.shape) == 2 and any(part in name for part in LINEAR)
    }
    scales = sum(4 * param.shape[0] for param in small.values())
    biases = sum(
        4 * int(np.prod(params[name].shape)) for name in params if name.endswith(".bias") and _beside(name, small)
    )
    rest = count(params) - count(small) - biases // 4
    return count(small) + scales + biases + 2 * rest


def _beside(bias: str, weights: dict[str, Any]) -> bool:
    return f"{bias.removesuffix('.bias')}.weight" in weights


def gigabytes(size: float) -> str:
    """Write a size in GB, powers of ten."""
    return f"{size / 1e9:.1f}"


def rows(head: list[str], body: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table() -> str:
    """Return what the models take, a column each."""
    configs = {name: FAMILY.config(**FAMILY.released[released]) for name, released in MODELS.items()}
    params = {name: params_of(config) for name, config in configs.items()}
    numbers = {name: count(each) for name, each in params.items()}
    body = [["parameters", *(f"{each:,}" for each in numbers.values())]]
    body += [
        [f"weights in {dtype}", *(gigabytes(size * each) for each in numbers.values())]
        for dtype, size in (("float32", 4), ("bfloat16", 2))
    ]
    body.append(["weights, linear maps in int8", *(gigabytes(int8_bytes(each)) for each in params.values())])
    largest = [max(int(np.prod(param.shape)) for param in each.values()) for each in params.values()]
    body.append(["largest tensor in bfloat16", *(gigabytes(2 * each) for each in largest)])
    kept = [2 * 2 * config.num_layers * config.hidden_size * 512 for config in configs.values()]
    body.append(["keys and values of 512 words, bfloat16", *(gigabytes(each) for each in kept)])
    body += [
        [f"training with Adam, {dtype}", *(gigabytes(size * each) for each in numbers.values())]
        for dtype, size in ADAM.items()
    ]
    inputs = [2 * 512 * config.num_layers * config.hidden_size for config in configs.values()]
    body.append(["inputs of layers for 512 words, gradient checkpointing, bfloat16", *map(gigabytes, inputs)])
    return rows(["GB", *MODELS], body)


def per_device() -> str:
    """Return what each of several devices holds if all is dealt out: a layer whole at its turn, and the tables."""
    body = []
    for name, released in MODELS.items():
        config = FAMILY.config(**FAMILY.released[released])
        params = params_of(config)
        layer = count({key: param for key, param in params.items() if key.startswith("blocks.0.")})
        root = count(params) - layer * config.num_layers
        serving = [gigabytes(2 * (count(params) / devices + layer + root)) for devices in DEVICES[1:]]
        training = [gigabytes(16 * count(params) / devices + 8 * (layer + root)) for devices in DEVICES[1:]]
        body += [[f"{name}, serving in bfloat16", gigabytes(2 * count(params)), *serving]]
        body += [[f"{name}, training in float32", gigabytes(16 * count(params)), *training]]
    return rows(["GB on each of", *map(str, DEVICES)], body)


if __name__ == "__main__":
    print(table(), per_device(), sep="\n\n")
