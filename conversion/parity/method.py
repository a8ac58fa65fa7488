"""How two sides are judged.

In float64 the maths is proven: the sides may be 1e-9 apart, relative to the largest value. In lower precision the floor
is measured: each side's own distance from its float64 result. The distance between the sides may be a few times the
smaller of the two floors, so that a side that computes with more error than it must is seen, too.

How many times is measured, by `benchmarks/parity_seeds.py`: with 8 floors and 16 roundings one of 100 seeds of sound
twins took 1.12 of its limit (the gradient of a text of one word, small by cancellation), and a loss after ten steps
0.89 of it (its floor was small by chance). Hence twice as much of both: 60 further seeds took at most 0.70, and what
is computed in half precision in the midst of float32 takes more than 50 times its limit (`tests/parity/faults.py`).
In half precision itself sound twins then took no more than 0.12, on JAX 0.17, so half as much is enough there.

Choices, such as the likeliest positions of an answer, must be equal; but positions that are masked read alike, and
rounding alone ranks them, in float64, too. Where both sides give what they chose the same likelihood, `tied` takes the
choice for the same, though not in the case `plain`, in which no two positions are alike.

No limit covers a step where there is none: a unit of ReLU that lies within rounding of zero is on at one side and off
at the other, and its gradient there or not. Hence `doubted` and `settled`: what fails in low precision only, while all
of float64 agrees, must fail on a second draw, too. A side that has lost precision does so on every draw.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from conversion.parity.results import Check

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]

EXACT = 1e-9
FACTOR = 16.0  # how many times the smaller floor the sides may be apart
ROUNDINGS = 32.0  # and how many roundings of the largest value on top, for tensors whose floor is small by chance
HALF = 0.5  # of both, in half precision, where many more roundings even out and no gradients are compared
TINY = 1e-30  # where all is zero
CANCELLED = (
    1e-12  # a gradient so small beside the others of its case is zero: its terms cancel, their rounding does not
)
SECOND = 1_000_003  # what is added to a seed for a second draw
EPSILON = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def distance(a: Array | None, b: Array | None) -> float:
    """Return the largest absolute difference; infinity if a side has nothing, another shape, or NaN alone."""
    if a is None or b is None or a.shape != b.shape:
        return float("inf")
    if not a.size:
        return 0.0
    difference = np.abs(a.astype("float64") - b.astype("float64"))
    found = float(difference.max())
    return float("inf") if np.isnan(found) else found


def allowed(dtype: str, floor: float, size: float) -> float:
    """Return how far apart two sides may be whose floor and largest value are given."""
    limit = FACTOR * floor + ROUNDINGS * EPSILON[dtype] * size
    return limit if dtype == "float32" else limit * HALF


def tied(dtype: str, a: Arrays, b: Arrays) -> dict[str, Array]:
    """Return the results of b with the choices of a where both sides find what they chose equally likely.

    Choices are what is called `..._index` beside `..._log_probs`.
    """
    found, near = dict(b), EXACT if dtype == "float64" else ROUNDINGS * EPSILON[dtype]
    for name in b:
        likelihood = name.removesuffix("_index") + "_log_probs"
        both = [each[key] for key in (likelihood, name) for each in (a, b) if key in each]
        alike = len(both) == 4 and len({each.shape for each in both}) == 1
        if alike and name.endswith("_index") and not name.startswith("plain/"):
            same = np.abs(both[0] - both[1]) <= near * np.abs(both[0])
            found[name] = np.where(same, both[2], both[3])
    return found


def scale(*arrays: Array | None) -> float:
    """Return the largest absolute value in any of the arrays."""
    return max((float(np.abs(array).max()) for array in arrays if array is not None and array.size), default=0.0)


class Judge:
    """Makes checks of one head, case by case.

    Args: as the attributes of `Check`.
    """

    def __init__(self, head: str, seed: int, sides: tuple[str, str]) -> None:
        self.head, self.seed, self.sides = head, seed, sides

    def exact(self, kind: str, a: Arrays, b: Arrays) -> Iterator[Check]:
        """Compare float64 results."""
        b = tied("float64", a, b)
        for name in {**a, **b}:
            size = scale(a.get(name), b.get(name))
            yield self._check(kind, name, distance(a.get(name), b.get(name)), 0.0, EXACT * max(1.0, size), size)

    def within_floor(
        self, kind: str, dtype: str, low: tuple[Arrays, Arrays], high: tuple[Arrays, Arrays]
    ) -> Iterator[Check]:
        """Compare results in lower precision, given the same in float64."""
        first = tied(dtype, high[0], low[0])
        high, low = (high[0], tied("float64", *high)), (first, tied(dtype, first, low[1]))
        largest: dict[str, float] = {}
        for name in {**high[0], **high[1]} if kind == "gradients" else ():
            case = name.rpartition("/")[0]
            largest[case] = max(largest.get(case, 0.0), scale(high[0].get(name), high[1].get(name)))
        # where all gradients of a case are zero, such as of choices that read alike, terms of the loss's size cancel
        largest = {case: size or 1.0 for case, size in largest.items()}
        for name in {**low[0], **low[1]}:
            a, b = low[0].get(name), low[1].get(name)
            floors = [distance(each.get(name), exact.get(name)) for each, exact in zip(low, high, strict=True)]
            size, others = scale(high[0].get(name), high[1].get(name)), largest.get(name.rpartition("/")[0], 0.0)
            size = others if size < CANCELLED * others else size
            floor = min(floors)
            limit = allowed(dtype, floor, max(size, TINY))
            # a side that strays far from its own float64 result has lost precision, even if both do so alike
            yield self._check(kind, name, max(distance(a, b), max(floors) / 2), floor, limit, size, precision=dtype)

    def shapes(self, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Check]:
        """Compare names and shapes of parameters."""
        for name in {**a, **b}:
            same = a.get(name) == b.get(name)
            note = "" if same else f"{a.get(name, 'none')} and {b.get(name, 'none')}"
            yield self._check("static", f"parameters/{name}", 0.0 if same else float("inf"), 0.0, 0.0, 0.0, note, "")

    def tokens(self, a: Arrays, b: Arrays) -> Iterator[Check]:
        """Compare generated tokens, which must be equal."""
        for name in {**a, **b}:
            yield self._check("tokens", name, distance(a.get(name), b.get(name)), 0.0, 0.0, scale(a.get(name)))

    def _check(
        self,
        kind: str,
        name: str,
        distance: float,
        floor: float,
        limit: float,
        size: float,
        note: str = "",
        precision: str = "float64",
    ) -> Check:
        case, _, tensor = name.rpartition("/")
        return Check(
            self.head, case or "all", self.seed, kind, self.sides, tensor, distance, floor, limit, size, note, precision
        )


def doubted(checks: Sequence[Check]) -> list[Check]:
    """Return the checks that failed, if all of them did by rounding alone; else none, for then the maths differs."""
    failed = [check for check in checks if not check.passed]
    return failed if all(check.precision in EPSILON for check in failed) else []


def settled(first: Sequence[Check], second: Sequence[Check]) -> list[Check]:
    """Return the checks of a draw, given a second one, whose checks take the place of those that failed by chance.

    A check failed by chance if of the second draw none of its kind and precision fails.
    """
    found = {_what(check): check for check in second}
    again = {(check.kind, check.precision) for check in second if not check.passed}
    return [
        check
        if check.passed or (check.kind, check.precision) in again or _what(check) not in found
        else replace(found[_what(check)], note=f"second draw; {check.share:.3g} of its limit with seed {check.seed}")
        for check in first
    ]


def _what(check: Check) -> tuple[Any, ...]:
    """Return what a check compares, whatever the draw."""
    return check.case, check.kind, check.precision, check.sides, check.name
