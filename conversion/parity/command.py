"""`xlbridge parity`: prove that two sides compute the same, and say where they part if they do not."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from queue import Queue
from typing import Any

from conversion.parity.compare import Options, Subject, compare, planned
from conversion.parity.reports import Progress, table, write_html, write_json, write_junit
from conversion.parity.results import Report
from conversion.parity.sides import MODES, ROOMS, Side
from conversion.parity.subjects import examples, heads_of, require_heads, subject_of
from xlcore.errors import ParityError
from xlcore.families import FAMILIES, family_of

Asked = list[tuple[tuple[Subject, Subject], Options]]
ABOUT = """
Compute a model on two sides and compare: every parameter by name and shape; outputs, hidden states, attentions and
losses in float64 (to 1e-9) and in lower precision (within the measured rounding floor); gradients; training; generated
tokens. Each framework runs in a process of its own. Exit status: 0 they agree, 1 they differ, 2 an error.
"""
EXAMPLES = """
examples:
  xlbridge parity my-model                                   both frameworks on a folder
  xlbridge parity config.json --seeds 3                      on random weights
  xlbridge parity my-model --against other --frameworks torch,torch
  xlbridge parity --all --html report.html --junit parity.xml
"""


def add_to(commands: Any) -> None:
    """Add the verb and its options to the command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(
        "parity",
        help="prove that both frameworks compute the same",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=form,
    )
    parser.add_argument("path", nargs="?", help="a folder, or a config.json alone, whose weights are drawn")
    parser.add_argument(
        "--all",
        action="store_true",
        help="all families: their tiny examples, which use every key; the first of each in all --modes",
    )
    parser.add_argument("--first", action="store_true", help="with --all: only the first example of each family")
    parser.add_argument("--against", metavar="PATH", help="the model of the second side, if it is another")
    parser.add_argument("--frameworks", type=_list, default=("torch", "tensorflow"), metavar="A,B", help=_known(ROOMS))
    parser.add_argument("--heads", type=_list, default=(), metavar="NAMES", help="model classes; default: all that fit")
    modes = dict.fromkeys(mode for known in MODES.values() for mode in known)
    parser.add_argument("--modes", type=_list, default=("eager",), metavar="MODES", help=f"all, or {_known(modes)}")
    parser.add_argument(
        "--dtypes", type=_list, default=("float32",), metavar="DTYPES", help="float32, bfloat16, float16"
    )
    parser.add_argument("--device", default="cpu", help="where both sides compute: cpu, cuda, cuda:1")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="draws of inputs and weights (default 1)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="with --all: models at a time (default 1)")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON")
    parser.add_argument("--junit", metavar="FILE", help="write it as JUnit XML, for CI")
    parser.add_argument("--html", metavar="FILE", help="write it as one HTML page with plots")
    parser.set_defaults(run=run)


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _known(names: Any) -> str:
    return ", ".join(names)


def run(options: argparse.Namespace) -> int:
    """Do what the command line asks for; return its exit status."""
    asked, began = _asked(options), time.monotonic()
    steps = sum(planned(pair[0].config, wanted, options.frameworks) for pair, wanted in asked)
    with Progress(steps) as progress:
        reports = _compared(asked, options, progress.advance)
    report = reports[0] if len(reports) == 1 else merged(reports)
    report.seconds = time.monotonic() - began  # with several jobs less than those of all reports together
    given = {"path": options.path, "against": options.against, "all": options.all, "first": options.first}
    report.options = {**report.options, **{name: value for name, value in given.items() if value}}
    print(table(report))
    for write, path in ((write_json, options.json), (write_junit, options.junit), (write_html, options.html)):
        if path:
            write(report, path)
            print(f"written: {path}", file=sys.stderr)
    return 0 if report.passed else 1


def _compared(asked: Asked, options: argparse.Namespace, advance: Callable[[str], None]) -> list[Report]:
    """Compare all pairs, as many at a time as asked for, each with processes that compute nothing else meanwhile."""
    free: Queue[tuple[Side, Side]] = Queue()

    def compared(one: tuple[tuple[Subject, Subject], Options]) -> Report:
        sides = free.get()
        try:
            return compare(one[0], sides, one[1], advance)
        finally:
            free.put(sides)

    with ExitStack() as stack:
        pool = ThreadPoolExecutor(options.jobs)
        stack.callback(pool.shutdown, cancel_futures=True)  # once the sides have ended, on whatever goes wrong
        for _ in range(options.jobs):
            first, second = (stack.enter_context(Side(name, options.device)) for name in options.frameworks)
            free.put((first, second))
        return list(pool.map(compared, asked))


def _asked(options: argparse.Namespace) -> Asked:
    """Return the pairs of models to compare, each with how."""
    if bool(options.path) == options.all:
        raise ParityError(
            "parity: PATH or --all must be given, one of them, got " + ("both" if options.all else "neither")
        )
    if options.first and not options.all:
        raise ParityError(f"parity: --first must go with --all, got it with {options.path!r}")
    if options.all and options.against:
        raise ParityError(f"parity: --against must go with PATH, got it with --all: {options.against!r}")
    if len(options.frameworks) != 2:
        got = ",".join(options.frameworks)
        raise ParityError(f"parity: --frameworks must be two names, such as torch,tensorflow, got {got!r}")
    for name in ("seeds", "jobs"):
        if getattr(options, name) < 1:
            raise ParityError(f"parity: --{name} must be positive, got {getattr(options, name)}")
    modes = tuple(dict.fromkeys(mode for name in options.frameworks for mode in MODES.get(name, ())))
    chosen = modes if "all" in options.modes else options.modes
    _require(chosen, modes, "--modes")
    _require(options.dtypes, ("float32", "bfloat16", "float16"), "--dtypes")
    if options.all:
        return _of_all(options, chosen)
    one = subject_of(options.path)
    other = subject_of(options.against) if options.against else one
    kinds = one.config.model_type, other.config.model_type
    if len(set(kinds)) > 1:
        raise ParityError(f"parity: --against must be a model of the same family, got {' and '.join(kinds)}")
    heads = tuple(head.name for head in require_heads(options.heads, one.config)) or heads_of(options.path, one.config)
    return [((one, other), Options(heads, chosen, options.dtypes, options.seeds))]


def _of_all(options: argparse.Namespace, modes: tuple[str, ...]) -> Asked:
    """Return every example with itself; the first of each family in all modes, for compiling takes long.

    Heads that are asked for are those of any family; a family that has none of them is left out.
    """
    wanted = [name.removeprefix("TF") for name in options.heads]
    _require(wanted, [head.name for family in FAMILIES.values() for head in family.heads], "--heads")
    asked, seen = [], set()
    for one in examples():
        heads = tuple(head.name for head in family_of(one.config).heads if head.name in wanted)
        another = one.config.model_type in seen
        chosen = ("eager",) if another else modes
        if (heads or not wanted) and not (another and options.first):
            asked.append(((one, one), Options(heads, chosen, options.dtypes, options.seeds)))
        seen.add(one.config.model_type)
    return asked


def _require(names: Sequence[str], known: Sequence[str], option: str) -> None:
    for name in names:
        if name not in known:
            raise ParityError(f"parity: {option} must be among {_known(known)}, got {name!r}")


def merged(reports: Sequence[Report]) -> Report:
    """Put several reports into one; each check tells of which model it is."""
    first = reports[0]
    config = {report.subject: report.config for report in reports}
    versions = {name: version for report in reports for name, version in report.versions.items()}
    subject = f"{len(reports)} models: " + ", ".join(report.subject for report in reports)
    whole = replace(first, subject=subject, config=config, versions=versions, checks=[], places=[])
    for report in reports:
        label = report.subject.rpartition(": ")[2]
        whole.checks += [replace(check, model=label) for check in report.checks]
        whole.places += [replace(place, case=f"{label}: {place.case}") for place in report.places]
    return whole
