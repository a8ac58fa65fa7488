"""Where two sides part: their computations are recorded step by step and laid side by side."""

from typing import Any

import numpy as np

from conversion.parity.method import EPSILON, EXACT, FACTOR, ROUNDINGS, distance, scale
from conversion.parity.results import Place
from xlcore.probe import Answer

Array = np.ndarray[Any, Any]


def first_difference(
    head: str,
    case: str,
    seed: int,
    sides: tuple[str, str],
    answers: tuple[Answer, Answer],
    floors: tuple[Answer, Answer] | None,
) -> Place | None:
    """Find the first step that both sides take and at which they differ.

    Args:
        answers: what both sides recorded; in float64 if `floors` is None.
        floors: what they recorded in float64, if `answers` are in float32.

    Returns:
        The place, or None if they agree in every step that both take.
    """
    first, second = (_steps(answer, case) for answer in answers)
    exact = [_steps(answer, case) for answer in floors] if floors else None
    for key, a in first.items():
        b = second.get(key)
        if b is None or a.shape != b.shape or not a.size:
            continue  # the frameworks take some steps in their own way
        if distance(a, b) > _limit(key, a, b, exact):
            return _place(head, case, seed, sides, key, (a, b), answers)
    return None


def _limit(key: str, a: Array, b: Array, exact: list[dict[str, Array]] | None) -> float:
    if exact is None:
        return EXACT * max(1.0, scale(a, b))
    floor = min(distance(each, high.get(key)) for each, high in zip((a, b), exact, strict=True))
    return FACTOR * floor + ROUNDINGS * EPSILON["float32"] * scale(a, b)


def _steps(answer: Answer, case: str) -> dict[str, Array]:
    prefix = f"trace/{case}/"
    return {name.removeprefix(prefix): array for name, array in answer.arrays.items() if name.startswith(prefix)}


def _place(
    head: str,
    case: str,
    seed: int,
    sides: tuple[str, str],
    key: str,
    arrays: tuple[Array, Array],
    answers: tuple[Answer, Answer],
) -> Place:
    a, b = (array.astype("float64") for array in arrays)
    difference = np.nan_to_num(np.abs(a - b), nan=np.inf)
    index = tuple(int(each) for each in np.unravel_index(int(difference.argmax()), difference.shape))
    layer, _, step = key.partition("|")
    lines = tuple(answer.facts["lines"][case][key] for answer in answers)
    return Place(
        head=head,
        case=case,
        seed=seed,
        sides=sides,
        layer=layer,
        operation=step.partition("#")[0],
        lines=(lines[0], lines[1]),
        distance=float(difference.max()),
        index=index,
        values=(float(a[index]), float(b[index])),
    )
