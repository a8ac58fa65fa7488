"""Parity in people's own tests: one function, which `conversion.parity.pytest_plugin` makes a fixture."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from conversion.parity.compare import Options, Subject, compare
from conversion.parity.reports import table
from conversion.parity.results import Report
from conversion.parity.sides import Side
from conversion.parity.subjects import subject_of
from xlcore.config import Config
from xlcore.errors import ParityError
from xlcore.families import find_head


def assert_parity(
    model: str | Path | Config,
    *,
    torch: type | None = None,
    keras: type | None = None,
    heads: tuple[str, ...] = (),
    frameworks: tuple[str, str] = ("torch", "tensorflow"),
    sides: Mapping[str, Side] | None = None,
    **options: Any,
) -> Report:
    """Assert that a model computes the same on two sides.

    Args:
        model: a folder, a config.json, or a config; without weights they are drawn.
        torch, keras: classes of your own that extend ours, if it is not ours that are to be compared. They must be
            importable by module and name.
        heads: names of model classes of ours; all of the family if neither these nor own classes are given.
        frameworks: the two sides.
        sides: processes to use, by framework; else they are started, and ended at the end.
        options: `seeds`, `modes`, `dtypes`, `kinds`; see `conversion.parity.compare.Options`.

    Returns:
        The report, for a closer look.

    Raises:
        ParityError: with the table of what differs, and the first place at which it does.
    """
    subject = Subject(type(model).__name__, model) if isinstance(model, Config) else subject_of(model)
    own = {framework: cls for framework, cls in (("torch", torch), ("tensorflow", keras), ("jax", keras)) if cls}
    if own:
        named = {framework: f"{cls.__module__}:{cls.__qualname__}" for framework, cls in own.items()}
        subject = Subject(subject.name, subject.config, subject.weights, named)
        heads = heads or (find_head(next(iter(own.values())))[1].name,)
    with ExitStack() as stack:
        running = [(sides or {}).get(name) or stack.enter_context(Side(name)) for name in frameworks]
        report = compare((subject, subject), (running[0], running[1]), Options(heads=heads, **options))
    if not report.passed:
        raise ParityError(f"assert_parity: both sides must compute the same, got differences\n{table(report, False)}")
    return report
