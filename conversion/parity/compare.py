"""A whole comparison: which heads, cases, precisions and modes are computed on both sides, and what is found."""

import datetime
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from math import prod
from typing import Any

import numpy as np

from conversion.parity.cases import draw_cases, draw_weights, flat
from conversion.parity.localise import first_difference, last_gradient
from conversion.parity.method import EPSILON, SECOND, Judge, doubted, settled
from conversion.parity.results import Check, Place, Report
from conversion.parity.sides import MODES, Side
from xlcore import __version__
from xlcore.config import Config
from xlcore.errors import ParityError
from xlcore.families import family_of, find_head_by_name
from xlcore.heads import Head
from xlcore.probe import Answer, Job

Array = np.ndarray[Any, Any]
ASKED_KINDS = ("gradients", "training", "tokens")
TOGETHER = 2**26  # parameters up to which both sides compute at the same time; larger models are in memory one by one
COMPILED_CASES = ("plain", "memory", "two streams")  # compiling takes long, and a case more finds nothing more


@dataclass(frozen=True)
class Subject:
    """One side's model: its config, and what is known of its weights; the rest is drawn.

    Attributes:
        name: for people.
        config: of the model.
        weights: parameters by canonical name, from a file.
        models: for each framework the class, as `module:Class`, where it is no known one.
    """

    name: str
    config: Config
    weights: Mapping[str, Array] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What is compared.

    Attributes:
        heads: class names under their PyTorch names; all heads of the family if empty.
        modes: among `eager`, `compile`, `graph`, `xla`; those other than eager are compared with eager, on their side.
        dtypes: lower precisions to compare in.
        seeds: how many draws of inputs (and weights, where they are drawn).
        kinds: what is compared beside the forward pass: `gradients`, `training`, `tokens`.
        first_seed: the seed of the first draw.
    """

    heads: tuple[str, ...] = ()
    modes: tuple[str, ...] = ("eager",)
    dtypes: tuple[str, ...] = ("float32",)
    seeds: int = 1
    kinds: tuple[str, ...] = ("gradients", "training", "tokens")
    first_seed: int = 0

    def __post_init__(self) -> None:
        modes = tuple(dict.fromkeys(mode for names in MODES.values() for mode in names))
        for key, known in {"modes": modes, "dtypes": tuple(EPSILON), "kinds": ASKED_KINDS, "heads": ()}.items():
            names = getattr(self, key)
            if isinstance(names, str):
                raise ParityError(f"parity: {key} must be a tuple of names, got {names!r}")
            for name in names if known else ():
                if name not in known:
                    raise ParityError(f"parity: {key} must be among {', '.join(known)}, got {name!r}")
        if self.seeds < 1:
            raise ParityError(f"parity: seeds must be positive, got {self.seeds}")


def compare(
    subjects: tuple[Subject, Subject],
    sides: tuple[Side, Side],
    options: Options,
    advance: Callable[[str], None] = lambda text: None,
) -> Report:
    """Compare two sides, and say where they part if they do.

    Args:
        subjects: the model of each side, the same one twice unless two checkpoints are held against each other.
        sides: the two processes.
        options: what is compared.
        advance: told of each step as it begins.

    Raises:
        ParityError: if a side cannot compute at all.
    """
    _require_modes(options, sides)
    began = time.monotonic()
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    name = " against ".join(dict.fromkeys(subject.name for subject in subjects))
    versions = {"xlbridge": __version__, "python": platform.python_version(), "numpy": np.__version__}
    report = Report(name, subjects[0].config.to_dict(), versions, _told(sides, options), started)
    for head in _heads(subjects[0].config, options):
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            run = _Run(subjects, sides, options, head, seed, advance)
            checks = run.checks()
            if doubtful := doubted(checks):
                modes = options.modes if any(check.kind == "mode" for check in doubtful) else ("eager",)
                more = replace(options, modes=modes, first_seed=seed + SECOND)
                checks = settled(checks, _Run(subjects, sides, more, head, seed + SECOND, advance).checks())
            report.checks += checks
            report.places += run.places(checks)
            versions |= run.versions
    report.seconds = time.monotonic() - began
    return report


def planned(config: Config, options: Options, frameworks: Sequence[str]) -> int:
    """Return how many steps `compare` will tell of, if it finds no difference."""
    compiled = sum(mode in MODES[name] for name in frameworks for mode in options.modes if mode != "eager")
    return len(_heads(config, options)) * (options.seeds + compiled)


def _require_modes(options: Options, sides: tuple[Side, Side]) -> None:
    """Refuse a mode that neither side has: it would be left out in silence."""
    known = dict.fromkeys(mode for side in sides for mode in MODES[side.framework])
    for mode in options.modes:
        if mode not in known:
            names = " and ".join(dict.fromkeys(side.framework for side in sides))
            raise ParityError(f"parity: modes of {names} must be among {', '.join(known)}, got {mode!r}")


def _heads(config: Config, options: Options) -> list[Head]:
    heads = family_of(config).heads
    return [find_head_by_name(name) for name in options.heads] if options.heads else list(heads)


def _told(sides: tuple[Side, Side], options: Options) -> dict[str, Any]:
    frameworks = ",".join(side.framework for side in sides)
    lists = {key: ",".join(value) for key, value in vars(options).items() if isinstance(value, tuple) and value}
    return {"frameworks": frameworks, "device": sides[0].device, "seeds": options.seeds, **lists}


class _Run:
    """One head with one draw of weights and inputs."""

    def __init__(
        self,
        subjects: tuple[Subject, Subject],
        sides: tuple[Side, Side],
        options: Options,
        head: Head,
        seed: int,
        advance: Callable[[str], None],
    ) -> None:
        self._sides, self._options, self._head, self._seed, self._advance = sides, options, head, seed, advance
        self._subjects = subjects
        self._configs = tuple(_runnable(subject.config, head) for subject in subjects)
        self._inputs = flat(draw_cases(head, self._configs[0], seed))
        self._names = tuple(side.framework for side in sides)
        self._weights: list[dict[str, Array]] = [{}, {}]
        self._answers: dict[str, list[Answer]] = {}
        self._together = False
        self.versions: dict[str, str] = {}

    def checks(self) -> list[Check]:
        """Compute everything on both sides, and judge."""
        judge = Judge(self._head.name, self._seed, (self._names[0], self._names[1]))
        self._advance(f"{self._head.name}, seed {self._seed}")
        shapes = [self._ask(number, "float64", ("static",), inputs={}).facts["shapes"] for number in (0, 1)]
        for number in (0, 1):
            given = {name: tuple(shape) for name, shape in shapes[number].items()}
            drawn = draw_weights(given, self._configs[number], self._head, self._seed)
            known = self._subjects[number].weights
            self._weights[number] = {name: known.get(name, drawn[name]) for name in drawn}
        tasks = ("forward", *self._options.kinds)
        self._together = max(sum(map(prod, each.values())) for each in shapes) <= TOGETHER
        exact = self._answers["float64"] = self._each("float64", tasks)
        found = [*judge.shapes(*shapes), *self._exact(judge, exact)]
        for dtype in self._options.dtypes:
            kinds = tuple(kind for kind in tasks if kind != "tokens") if dtype == "float32" else ("forward",)
            low = self._answers[dtype] = self._each(dtype, kinds)
            found += self._rounded(judge, dtype, low, exact)
        return found + (self._modes(exact) if self._seed == self._options.first_seed else [])

    def _exact(self, judge: Judge, answers: Sequence[Answer]) -> Iterator[Check]:
        groups = {"float64": "outputs/", "gradients": "gradients/", "training": "training/"}
        for kind, prefix in groups.items():
            yield from judge.exact(kind, *(_under(answer, prefix) for answer in answers))
        yield from judge.tokens(*(_under(answer, "tokens/") for answer in answers))

    def _rounded(self, judge: Judge, dtype: str, low: Sequence[Answer], high: Sequence[Answer]) -> Iterator[Check]:
        groups = {dtype: "outputs/", "gradients": "gradients/", "training": "training/"}
        for kind, prefix in groups.items():
            lower = [self._comparable(dtype, _under(answer, prefix)) for answer in low]
            exact = [self._comparable(dtype, _under(answer, prefix)) for answer in high]
            yield from judge.within_floor(kind, dtype, (lower[0], lower[1]), (exact[0], exact[1]))

    def _comparable(self, dtype: str, arrays: dict[str, Array]) -> dict[str, Array]:
        """Leave out, below float32, what hangs on a choice: half precision ranks what is nearly equal as it may."""
        fields = self._head.output.fields
        chosen = {name for name, array in fields.items() if array.values == "chosen" and dtype != "float32"}
        return {name: array for name, array in arrays.items() if name.rpartition("/")[2] not in chosen}

    def _modes(self, exact: Sequence[Answer]) -> list[Check]:
        found: list[Check] = []
        cases = tuple(f"inputs/{case}/" for case in COMPILED_CASES)
        inputs = {name: array for name, array in self._inputs.items() if name.startswith(cases)}
        compiled = [[mode for mode in self._options.modes if mode in MODES[name][1:]] for name in self._names]
        eager = self._answers.get("float32", [])
        if any(compiled) and not eager:
            eager = self._each("float32", ("forward",), inputs=inputs)
        for modes in zip_longest(*compiled):
            for name, mode in zip(self._names, modes, strict=True):
                if mode:
                    self._advance(f"{self._head.name}, {name} {mode}")
            answers = self._each("float32", ("forward",), modes, inputs)
            for number, (name, mode) in enumerate(zip(self._names, modes, strict=True)):
                if mode:
                    judge = Judge(self._head.name, self._seed, (f"{name} eager", f"{name} {mode}"))
                    found += self._mode(judge, eager[number], answers[number], exact[number])
        return found

    def _mode(self, judge: Judge, eager: Answer, other: Answer, exact: Answer) -> Iterator[Check]:
        """Hold what a side computes in a mode against what it computes eagerly."""
        compiled, high = _under(other, "outputs/"), _under(exact, "outputs/")
        kept = {name: array for name, array in _under(eager, "outputs/").items() if name in compiled}
        yield from judge.within_floor("mode", "float32", (kept, compiled), (high, high))

    def places(self, checks: Sequence[Check]) -> list[Place]:
        """Find where the sides part, in the first case of this head in which they do."""
        failed = [
            check for check in checks if not check.passed and (check.head, check.seed) == (self._head.name, self._seed)
        ]
        forward = [check for check in failed if check.kind == "float64" or check.kind in EPSILON]
        if not failed:
            return []
        check = (forward or [check for check in failed if check.kind == "gradients"] or failed)[0]
        if check.kind in ("tokens", "mode"):  # no single call, step by step, shows these
            return []
        case, _, unlabelled = check.case.partition("/")
        case = case if any(name.startswith(f"inputs/{case}/") for name in self._inputs) else "plain"
        self._advance(f"{self._head.name}: looking for the place in case {case!r}")
        inputs = {name: array for name, array in self._inputs.items() if name.startswith(f"inputs/{case}/")}
        for name in self._head.targets if unlabelled else ():
            inputs.pop(f"inputs/{case}/{name}", None)
        found = self._first_difference(case, inputs, check)
        if found is None and check.kind == "gradients":
            found = self._last_gradient(case, inputs, failed)
        return [found] if found else []

    def _first_difference(self, case: str, inputs: Mapping[str, Array], check: Check) -> Place | None:
        """Lay the steps of a case side by side: with everything asked for, then as users run it, then rounded."""
        where = (self._head.name, case, self._seed, (self._names[0], self._names[1]))
        exact = self._traces("float64", inputs)
        found = first_difference(*where, exact)
        dtype = check.precision
        if found is None and dtype == "float64":
            found = first_difference(*where, self._traces("float64", inputs, "graph"))
        if found is None and dtype in EPSILON:
            found = first_difference(*where, self._traces(dtype, inputs), exact, dtype)
        return found

    def _last_gradient(self, case: str, inputs: Mapping[str, Array], failed: Sequence[Check]) -> Place | None:
        """Find where gradients part although every step forward agrees."""
        wrong = [check for check in failed if check.kind == "gradients" and check.case == case]
        dtype = wrong[0].precision  # the exact ones come first
        names = {check.name for check in wrong if check.precision == dtype}
        answers = [_under(answer, f"gradients/{case}/") for answer in self._answers[dtype]]
        ties = family_of(self._configs[0]).ties_within(self._configs[0], self._head)
        where = (self._head.name, case, self._seed, (self._names[0], self._names[1]))
        return last_gradient(*where, names, ties, (answers[0], answers[1]), self._traces("float64", inputs))

    def _traces(self, dtype: str, inputs: Mapping[str, Array], mode: str = "eager") -> tuple[Answer, Answer]:
        """Have both sides record their steps; modes other than eager are run eagerly, but return no more than asked."""
        first, second = self._each(dtype, ("trace",), (mode, mode), inputs)
        return first, second

    def _each(
        self,
        dtype: str,
        tasks: tuple[str, ...],
        modes: Sequence[str | None] = ("eager", "eager"),
        inputs: Mapping[str, Array] | None = None,
    ) -> list[Answer]:
        """Ask both sides, at the same time if the model is small; a side without a mode is not asked."""

        def asked(number: int) -> Answer:
            mode = modes[number]
            return self._ask(number, dtype, tasks, mode, inputs) if mode else Answer()

        if not self._together or self._sides[0] is self._sides[1]:
            return [asked(0), asked(1)]
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(asked, (0, 1)))

    def _ask(
        self,
        number: int,
        dtype: str,
        tasks: tuple[str, ...],
        mode: str = "eager",
        inputs: Mapping[str, Array] | None = None,
    ) -> Answer:
        side, subject = self._sides[number], self._subjects[number]
        weights = {f"weights/{name}": array for name, array in self._weights[number].items()}
        job = Job(
            model=side.model(subject.models.get(side.framework, self._head.name)),
            config=self._configs[number].to_dict(),
            dtype=dtype,
            mode=mode,
            tasks=tasks,
            arrays={**weights, **(self._inputs if inputs is None else inputs)},
        )
        answer = side.ask(job)
        self.versions |= answer.facts["versions"]
        return answer


def _runnable(config: Config, head: Head) -> Config:
    """Return a config with which every case runs: a classifier of several texts must know its padding."""
    needs_padding = head.kind == "sequence_classification" and config.pad_token_id is None
    return config.copy(pad_token_id=0) if needs_padding else config


def _under(answer: Answer, prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in answer.arrays.items() if name.startswith(prefix)}
