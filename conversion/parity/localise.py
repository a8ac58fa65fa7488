"""Where two sides part: their computations are recorded step by step and laid side by side."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from conversion.parity.method import EXACT, allowed, distance, scale
from conversion.parity.results import Place
from xlcore.probe import Answer

Array = np.ndarray[Any, Any]
Steps = dict[str, Array]
OUTERMOST = "|"  # how the name of a step begins that the model itself takes, and no layer of it


def first_difference(
    head: str,
    case: str,
    seed: int,
    sides: tuple[str, str],
    answers: tuple[Answer, Answer],
    floors: tuple[Answer, Answer] | None = None,
    dtype: str = "float64",
) -> Place | None:
    """Find the first step that both sides take and at which they differ.

    A name that is assigned several times may be so more often on one side: a value must be among those that the other
    side gives that name, but for as many as it has more, and the last ones must agree. Inside a layer a side may go its
    own way, such as through fewer rows: a difference that does not reach the steps of the model itself is none.

    Args:
        answers: what both sides recorded in `dtype`.
        floors: what they recorded in float64, if `dtype` is a lower one.

    Returns:
        The place, or None if they agree in every step that both take.
    """
    differing = _differing(answers, case, floors, dtype)
    if not any(keys[0].startswith(OUTERMOST) for keys in differing):
        return None
    first, second = (_steps(answer, case) for answer in answers)
    keys = differing[0]
    return _place((head, case, seed, sides), keys, (first[keys[0]], second[keys[1]]), answers)


def _differing(
    answers: tuple[Answer, Answer], case: str, floors: tuple[Answer, Answer] | None, dtype: str
) -> list[tuple[str, str]]:
    """Return the steps of the first side that differ from those of the second, each with one that it differs from."""
    first, second = (_steps(answer, case) for answer in answers)
    exact = [_steps(answer, case) for answer in floors] if floors else None
    mine, others = _by_name(first), _by_name(second)
    spare = {name: len(keys) - len(others.get(name, ())) for name, keys in mine.items()}
    found = []
    for key, a in first.items():
        name = key.partition("#")[0]
        # the frameworks take some steps in their own way, such as all rows instead of those that count
        alike = [other for other in others.get(name, ()) if second[other].shape == a.shape]
        if not alike or not a.size:
            continue
        if key == mine[name][-1]:
            alike = alike[-1:]
        agrees = any(distance(a, second[b]) <= _limit((key, b), (a, second[b]), exact, dtype) for b in alike)
        if not agrees and spare[name] > 0 and key != mine[name][-1]:
            spare[name] -= 1
        elif not agrees:
            found.append((key, key if key in alike else alike[-1]))
    return found


def last_gradient(
    head: str,
    case: str,
    seed: int,
    sides: tuple[str, str],
    failed: Collection[str],
    ties: Mapping[str, str],
    gradients: tuple[Steps, Steps],
    traces: tuple[Answer, Answer],
) -> Place | None:
    """Find where gradients go wrong on their way back: at the latest parameter of the computation that has a wrong one.

    A tied parameter gets its gradient from several places, so it counts only if no other one is wrong.

    Args:
        failed: parameters whose gradients differ, by canonical name.
        ties: second names of parameters, to first ones: a parameter that is used twice counts where it is used last.
        gradients: of both sides, by parameter, in the order of the computation.
        traces: the steps of both sides, forward.
    """
    names = _in_order(dict.fromkeys([*gradients[0], *gradients[1]]), ties)
    shared = set(ties) | set(ties.values())
    wrong = [name for name in names if name in failed and name not in shared]
    wrong = wrong or [name for name in names if ties.get(name, name) in failed]
    if not wrong:
        return None
    a, b = (each.get(ties.get(wrong[-1], wrong[-1])) for each in gradients)
    layers = {key.partition("|")[0]: key for key in _steps(traces[0], case)}
    layer = max((layer for layer in layers if wrong[-1].startswith(f"{layer}.")), key=len, default="")
    nothing = np.full((), np.nan)
    pair = (nothing, nothing) if a is None or b is None or a.shape != b.shape else (a, b)
    key = f"{layer}|gradient of {wrong[-1].removeprefix(layer).strip('.')}"
    lines = [trace.facts["lines"][case].get(layers.get(layer, ""), "") for trace in traces]
    return _told((head, case, seed, sides), key, pair, (lines[0], lines[1]))


def _in_order(names: Iterable[str], ties: Mapping[str, str]) -> list[str]:
    """Return parameters in the order of the computation, each second name behind those that lie next to it."""
    ordered = list(names)
    for alias in ties:
        around = alias
        while around and not any(name.startswith(f"{around}.") for name in ordered):
            around = around.rpartition(".")[0]
        last = [number for number, name in enumerate(ordered) if name.startswith(f"{around}.") or not around]
        ordered.insert(last[-1] + 1 if last else len(ordered), alias)
    return ordered


def _limit(keys: tuple[str, str], arrays: tuple[Array, Array], exact: list[Steps] | None, dtype: str) -> float:
    if exact is None:
        return EXACT * max(1.0, scale(*arrays))
    floor = min(distance(each, high.get(key)) for key, each, high in zip(keys, arrays, exact, strict=True))
    return allowed(dtype, floor, scale(*arrays))


def _steps(answer: Answer, case: str) -> Steps:
    prefix = f"trace/{case}/"
    return {name.removeprefix(prefix): array for name, array in answer.arrays.items() if name.startswith(prefix)}


def _by_name(steps: Steps) -> dict[str, list[str]]:
    """Return the steps that give a value to the same name, in order."""
    found: dict[str, list[str]] = {}
    for key in steps:
        found.setdefault(key.partition("#")[0], []).append(key)
    return found


def _place(
    where: tuple[str, str, int, tuple[str, str]],
    keys: tuple[str, str],
    arrays: tuple[Array, Array],
    answers: tuple[Answer, Answer],
) -> Place:
    lines = [answer.facts["lines"][where[1]][key] for answer, key in zip(answers, keys, strict=True)]
    return _told(where, keys[0], arrays, (lines[0], lines[1]))


def _told(
    where: tuple[str, str, int, tuple[str, str]], key: str, arrays: tuple[Array, Array], lines: tuple[str, str]
) -> Place:
    a, b = (array.astype("float64") for array in arrays)
    difference = np.nan_to_num(np.abs(a - b), nan=np.inf)
    index = tuple(int(each) for each in np.unravel_index(int(difference.argmax()), difference.shape))
    layer, _, step = key.partition("|")
    return Place(
        *where,
        layer=layer,
        operation=step.partition("#")[0],
        lines=lines,
        distance=float(difference.max()),
        index=index,
        values=(float(a[index]), float(b[index])),
    )
