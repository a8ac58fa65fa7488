"""What a parity run finds: checks, places, and the report that holds them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

# The kinds of check, in the order in which they are made and told.
KINDS = {
    "static": "every parameter: name and shape",
    "float64": "forward in float64: the maths",
    "float32": "forward in float32, against the floor",
    "bfloat16": "forward in bfloat16, against the floor",
    "float16": "forward in float16, against the floor",
    "gradients": "gradients in float64 and float32",
    "training": "one and ten steps of training",
    "tokens": "greedily generated tokens",
    "mode": "compiled, graph, XLA beside eager",
}


@dataclass(frozen=True)
class Check:
    """One tensor of one case, compared on two sides.

    Attributes:
        head: the model class, under its PyTorch name.
        case: what the inputs were: `plain`, `memory`, ...
        seed: of weights and inputs.
        kind: one of `KINDS`.
        sides: the two that were compared, such as `("torch", "tensorflow")` or `("torch eager", "torch compile")`.
        name: the tensor: `logits`, `hidden_states.3`, `blocks.0.attention.query.weight`.
        distance: largest absolute difference; infinity if shapes differ or a side has no such tensor.
        floor: the smaller of the two sides' own distances from their float64 result; 0 where there is none.
        limit: what `distance` may be.
        scale: largest absolute value of the tensor.
        note: why, where the numbers do not say it.
        precision: in which both sides computed; empty where nothing is computed.
        model: which of several models it was, if a run compares several.
    """

    head: str
    case: str
    seed: int
    kind: str
    sides: tuple[str, str]
    name: str
    distance: float
    floor: float
    limit: float
    scale: float
    note: str = ""
    precision: str = "float64"
    model: str = ""

    @property
    def passed(self) -> bool:
        """Whether the sides agree; a NaN anywhere is no agreement."""
        return self.distance <= self.limit

    @property
    def share(self) -> float:
        """How much of the limit the distance takes: above 1 is a failure."""
        if math.isnan(self.distance):
            return math.inf
        return self.distance / self.limit if self.limit else (math.inf if self.distance else 0.0)


@dataclass(frozen=True)
class Place:
    """The first operation at which two sides part.

    Attributes:
        head, case, seed, sides: as in `Check`.
        layer: the layer it lies in, by canonical name: `blocks.1.attention`.
        operation: the name that the code gives its result: `scores`.
        lines: where it stands in the code, a side: `xl_torch/layers/attention.py:71`.
        distance: largest absolute difference there, in float64.
        index: where in the tensor it is largest.
        values: what each side has there.
    """

    head: str
    case: str
    seed: int
    sides: tuple[str, str]
    layer: str
    operation: str
    lines: tuple[str, str]
    distance: float
    index: tuple[int, ...]
    values: tuple[float, float]

    def __str__(self) -> str:
        a, b = self.sides
        first, second = (f"{value:.9g}" for value in self.values)
        where = f"{self.layer or 'model'}: {self.operation}{list(self.index)}"
        return f"{where} is {first} in {a} ({self.lines[0]}) and {second} in {b} ({self.lines[1]})"


@dataclass
class Report:
    """Everything that a run found.

    Attributes:
        subject: what was compared, for people: a path, or a config's name.
        config: the keys of config.json.
        versions: of python, the packages and the frameworks.
        options: what the run was asked to do.
        checks, places: what it found.
        seconds: how long it took.
        started: when, as an ISO date and time.
    """

    subject: str
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    options: Mapping[str, Any]
    started: str
    seconds: float = 0.0
    checks: list[Check] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether there were checks, and all passed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def failures(self) -> list[Check]:
        """The checks that did not pass, worst first."""
        return sorted((check for check in self.checks if not check.passed), key=lambda check: -check.share)

    def worst(self, checks: Iterable[Check]) -> Check:
        """Return the check that takes most of its limit."""
        return max(checks, key=lambda check: check.share)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON can hold it; what is infinite or NaN becomes a string."""
        found = asdict(self) | {"passed": self.passed}
        result: dict[str, Any] = _jsonable(found)
        return result


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
