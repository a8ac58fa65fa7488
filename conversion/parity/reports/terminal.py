"""A report in the terminal: progress while it is made, and a table at its end."""

import os
import sys
from collections.abc import Iterator
from threading import Lock
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from conversion.parity.reports.summary import (
    count,
    duration,
    failed,
    floor_of,
    grouped,
    kinds_of,
    next_steps,
    reason,
    remark,
    rerun,
    shell_lines,
    short,
    verdict,
    worst,
)
from conversion.parity.results import Check, Report
from conversion.tables import WIDTH, ascii_text, shortened, wrapped

MOST_PLACES = 5
_GREEN, _RED, _BOLD, _PLAIN = "\x1b[32m", "\x1b[31;1m", "\x1b[1m", "\x1b[0m"
_GOOD = "ok"
_TITLES = ("head, kind", "checks", "worst tensor", "distance", "floor", "limit", "verdict")


class Progress:
    """How far a run is, as a line on stderr; nothing where stderr is no terminal.

    Use it as a context manager; the line goes at the end, so that the table stands alone.

    Args:
        total: how many steps there are, if that is known.
    """

    def __init__(self, total: int | None = None):
        quiet = not sys.stderr.isatty()
        self._bar: Any = tqdm(
            total=total, file=sys.stderr, disable=quiet, desc="parity", unit="step", leave=False, dynamic_ncols=True
        )
        self._begun, self._lock = False, Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def advance(self, text: str = "") -> None:
        """Say which step begins now; the one before it is done. More steps than foreseen make the line longer."""
        with self._lock:  # models compared at the same time tell of their steps as they come
            if self._begun:
                if self._bar.total is not None:
                    self._bar.total = max(self._bar.total, self._bar.n + 2)
                self._bar.update()
            self._begun = True
            self._bar.set_postfix_str(shortened(ascii_text(text), 48))


def table(report: Report, colour: bool | None = None) -> str:
    """Return the report as a table: a row a head and kind; below it, on failure, first places and what to do.

    Args:
        report: what a run found.
        colour: whether to colour it; None for: where stdout is a terminal and NO_COLOR is not set.
    """
    if colour is None:
        colour = sys.stdout.isatty() and not os.getenv("NO_COLOR")
    lines = [_paint(_fit(f"Parity of {ascii_text(report.subject)}"), _BOLD, colour)]
    if report.checks:
        lines += ["", *_rows(report, colour)]
    if not report.passed:
        lines += _failures(report)
    tone = _GREEN if report.passed else _RED
    last = wrapped(ascii_text(f"{verdict(report)}. {reason(report)} It took {duration(report.seconds)}."))
    lines += ["", *(_paint(line, tone, colour) for line in last)]
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------------------- rows


def _rows(report: Report, colour: bool) -> Iterator[str]:
    groups = {head: _cells(checks) for head, checks in grouped(report.checks, lambda check: check.head).items()}
    widths = _widths([row for rows in groups.values() for row in rows])
    yield _line(_TITLES, widths)
    yield "  ".join("-" * width for width in widths)
    for head, rows in groups.items():
        yield _paint(_fit(ascii_text(head)), _BOLD, colour)
        for row in rows:
            # The verdict is the last cell: it is painted once all are padded.
            start = _line((*row[:-1], ""), widths)
            yield start + _paint(row[-1], _GREEN if row[-1] == _GOOD else _RED, colour)


def _cells(checks: list[Check]) -> list[tuple[str, ...]]:
    by_kind = grouped(checks, lambda check: check.kind)
    rows: list[tuple[str, ...]] = []
    for kind in kinds_of(checks):
        top = worst(by_kind[kind])
        texts = (f"  {ascii_text(kind)}", f"{len(by_kind[kind]):,}", ascii_text(top.name))
        numbers = (short(top.distance), floor_of(top), short(top.limit))
        rows.append((*texts, *numbers, _GOOD if top.passed else "DIFFERS"))
    return rows


def _widths(cells: list[tuple[str, ...]]) -> list[int]:
    """Return the columns' widths; the tensor's name has what the others leave."""
    widths = [max(map(len, column)) for column in zip(_TITLES, *cells, strict=True)]
    widths[0] = min(widths[0], 16)
    others = sum(widths) - widths[2] + 2 * (len(widths) - 1)
    widths[2] = min(widths[2], WIDTH - others)
    return widths


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    turned = (False, True, False, True, True, True, False)
    padded = [
        f"{shortened(cell, width):>{width}}" if right else f"{shortened(cell, width):<{width}}"
        for cell, width, right in zip(cells, widths, turned, strict=True)
    ]
    return "  ".join([*padded[:-1], cells[-1]])


# ----------------------------------------------------------------------------------------------------------- failures


def _failures(report: Report) -> Iterator[str]:
    """Yield the first places, the notes of failures, and what to do next."""
    if report.places:
        yield from ("", "First places where the sides part:")
        for place in report.places[:MOST_PLACES]:
            yield from wrapped(f"{ascii_text(place.head)}, {ascii_text(place.case)}, seed {place.seed}", "  ")
            yield from wrapped(ascii_text(place), "    ")
        if more := len(report.places) - MOST_PLACES:
            yield from [f"  ... and {count(more, 'more place')}"] if more > 0 else []
    if noted := [check for check in failed(report.checks) if remark(check)]:
        yield from ("", "Notes:")
        for check in noted[:MOST_PLACES]:
            yield from wrapped(ascii_text(f"{check.head}, {check.case}, {check.name}: {remark(check)}"), "  ")
        if len(noted) > MOST_PLACES:
            yield f"  ... and {count(len(noted) - MOST_PLACES, 'more note')}"
    steps = next_steps(report)
    yield from ("", "Next:")
    for number, step in enumerate(steps, 1):
        yield from wrapped(f"{number}. {ascii_text(step)}", "  ", hang=3)
    if report.checks:
        yield f"  {len(steps) + 1}. Run the first failing head alone:"
        yield from (f"     {line}" for line in shell_lines(ascii_text(rerun(report)), WIDTH - 5))


# --------------------------------------------------------------------------------------------------------------- text


def _fit(text: str) -> str:
    return shortened(text, WIDTH)


def _paint(text: str, tone: str, colour: bool) -> str:
    return f"{tone}{text}{_PLAIN}" if colour else text
