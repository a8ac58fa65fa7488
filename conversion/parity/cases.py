"""What a model is fed with to be compared: cases from its contract, weights from its parameter table, by seed."""

from collections.abc import Mapping
from typing import Any
from zlib import crc32

import numpy as np

from xlcore.config import Config
from xlcore.families import family_of
from xlcore.heads import Head

Array = np.ndarray[Any, Any]
# What carries the text; everything else in a contract is on top of it.
TEXT, EMBEDS, MEMORY, TARGETS = "input_ids", "inputs_embeds", "mems", "target_mapping"
HEADS = "head_mask"
SECOND_STREAM = ("perm_mask", TARGETS, "token_type_ids", MEMORY)


def draw_cases(head: Head, config: Config, seed: int) -> dict[str, dict[str, Any]]:
    """Draw inputs for every case that the head's contract has: each argument on top of a plain text, and edge sizes.

    Returns:
        For each case the arguments by name; memory as a list of arrays.
    """
    halves = getattr(config, "bi_data", False)  # such a batch has an even number of texts
    memory = _memory_of(config)
    plain = _sizes(config, B=4 if halves else 3, T=7, M=memory)
    cases = {"plain": _draw(head, plain, seed, [TEXT])}
    cases["one word"] = _draw(
        head, plain | {"B": 2 if halves else 1, "T": _shortest(head, config), "U": 2}, seed, [TEXT]
    )
    if MEMORY in head.inputs:
        cases["memory"] = _draw(head, plain, seed, [TEXT, MEMORY])
        cases["short memory"] = _draw(head, plain | {"M": 2}, seed, [TEXT, MEMORY])
        longer = plain | {"T": memory + 2, "U": memory + 3, "M": memory + 3}
        cases["long memory"] = _draw(head, longer, seed, [TEXT, MEMORY])
    for name in (name for name in head.inputs if name not in (TEXT, MEMORY, *head.targets)):
        cases[name] = _draw(head, plain, seed, [name] if name == EMBEDS else [TEXT, name])
    if TARGETS in head.inputs:
        cases["two streams"] = _draw(head, plain, seed, [TEXT, *SECOND_STREAM])
        cases["two streams by position"] = cases["two streams"] | {TARGETS: cases["two streams"][TARGETS].argmax(-1)}
    if config.pad_token_id is not None:
        padded = {name: value.copy() for name, value in cases["plain"].items()}
        padded[TEXT][0, ..., 4:] = config.pad_token_id
        cases["padding"] = padded
    return cases


def _memory_of(config: Config) -> int:
    """Return how long a memory is drawn: as long as the model's, if that has a length."""
    length = getattr(config, "mem_len", 0)
    return 5 if length is None else max(int(length), 0)


def _shortest(head: Head, config: Config) -> int:
    """Return the length of the shortest text that the head can read."""
    beams = ("start_n_top", "end_n_top") if head.kind == "beam_question_answering" else ()
    return max([1, *(int(getattr(config, name)) for name in beams)])


def _sizes(config: Config, **sizes: int) -> dict[str, int]:
    common = {"D": config.hidden_size, "N": config.num_heads, "L": config.num_layers, "V": config.vocab_size}
    return common | {"K": config.num_labels, "C": 2, "U": sizes["T"]} | sizes


def _draw(head: Head, sizes: Mapping[str, int], seed: int, names: list[str]) -> dict[str, Any]:
    names = [name for name in names if name in head.inputs]
    predicted = min(3, sizes["T"]) if TARGETS in names else sizes["T"]
    counted = {**sizes, "G": sizes["B"] * sizes["C"], "P": predicted, "S": sizes["T"]}
    drawn = head.inputs.draw(counted, seed, [*names, *head.targets])
    if HEADS in drawn:  # what stays counts in part: a side may take it for true
        shares = np.random.default_rng(seed).uniform(0.2, 1.0, drawn[HEADS].shape)
        drawn[HEADS] = (drawn[HEADS] * shares).astype("float32")
    return drawn


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
