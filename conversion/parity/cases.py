"""What a model is fed with to be compared: cases from its contract, weights from its parameter table, by seed."""

from collections.abc import Mapping
from typing import Any
from zlib import crc32

import numpy as np

from xlcore.config import Config
from xlcore.families import family_of
from xlcore.heads import Head
from xlcore.shapes import Contract

Array = np.ndarray[Any, Any]
# What carries the text; everything else in a contract is on top of it.
TEXT, LABELS, EMBEDS, MEMORY = "input_ids", "labels", "inputs_embeds", "mems"


def draw_cases(head: Head, config: Config, seed: int) -> dict[str, dict[str, Any]]:
    """Draw inputs for every case that the head's contract has: each argument on top of a plain text, and edge sizes.

    Returns:
        For each case the arguments by name; memory as a list of arrays.
    """
    memory = max(getattr(config, "mem_len", 0) or 0, 0)
    plain = _sizes(config, B=3, T=7, M=memory)
    cases = {"plain": _draw(head.inputs, plain, seed, [TEXT])}
    single = plain | {"B": 1, "T": 1, "U": 2}
    cases["one word"] = _draw(head.inputs, single, seed, [TEXT])
    if MEMORY in head.inputs:
        cases["memory"] = _draw(head.inputs, plain, seed, [TEXT, MEMORY])
        cases["short memory"] = _draw(head.inputs, plain | {"M": 2}, seed, [TEXT, MEMORY])
        longer = plain | {"T": memory + 2, "U": memory + 3, "M": memory + 3}
        cases["long memory"] = _draw(head.inputs, longer, seed, [TEXT, MEMORY])
    for name in (name for name in head.inputs if name not in (TEXT, LABELS, MEMORY)):
        cases[name] = _draw(head.inputs, plain, seed, [name] if name == EMBEDS else [TEXT, name])
    if config.pad_token_id is not None:
        padded = {name: value.copy() for name, value in cases["plain"].items()}
        padded[TEXT][0, 4:] = config.pad_token_id
        cases["padding"] = padded
    return cases


def _sizes(config: Config, **sizes: int) -> dict[str, int]:
    common = {"D": config.hidden_size, "N": config.num_heads, "L": config.num_layers, "V": config.vocab_size}
    return common | {"K": config.num_labels, "U": sizes["T"]} | sizes


def _draw(contract: Contract, sizes: Mapping[str, int], seed: int, names: list[str]) -> dict[str, Any]:
    return contract.draw(sizes, seed, [*names, LABELS] if LABELS in contract else names)


def flat(cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Array]:
    """Name the arrays of cases as a job carries them."""
    found: dict[str, Array] = {}
    for case, inputs in cases.items():
        for name, value in inputs.items():
            if isinstance(value, list):
                found |= {f"inputs/{case}/{name}.{number}": each for number, each in enumerate(value)}
            else:
                found[f"inputs/{case}/{name}"] = value
    return found


def draw_weights(shapes: Mapping[str, tuple[int, ...]], config: Config, head: Head, seed: int) -> dict[str, Array]:
    """Draw a value for every parameter, none at its do-nothing value, so that none goes untested.

    Args:
        shapes: by canonical name; names that no table lists belong to a head of somebody's own.
    """
    table = family_of(config).params(config, head)
    drawn = {}
    for name in sorted(shapes):
        rng = np.random.default_rng([seed, crc32(name.encode())])  # a parameter more or less changes no other one
        center = table[name].init.center if name in table else float(name.endswith("norm.weight"))
        spread = 1.0 / shapes[name][-1] ** 0.5 if len(shapes[name]) > 1 else 0.2
        drawn[name] = center + spread * rng.standard_normal(shapes[name])
    return drawn
