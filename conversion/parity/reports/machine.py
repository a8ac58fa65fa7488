"""A report for machines: JSON that is read back exactly, and JUnit XML as CI systems read it."""

import json
import math
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

import numpy as np

from conversion.parity.reports.summary import clean, count, failed, floor_of, grouped, percent, places_of, short, worst
from conversion.parity.results import Check, Place, Report
from xlcore import files
from xlcore.errors import FormatError

FileName = str | PathLike[str]
Row = TypeVar("Row", Check, Place)
_FIELDS = ("subject", "config", "versions", "options", "started", "seconds", "checks", "places", "passed")
# A CI system shows a failure's text on a page; a longer list is in the JSON.
_MOST_LISTED = 100


def write_text(path: FileName, text: str) -> None:
    """Write a file whole or not at all, in UTF-8; its folder is made where there is none."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, text)


# --------------------------------------------------------------------------------------------------------------- JSON


def write_json(report: Report, path: FileName) -> None:
    """Write a report as JSON, a check a line, so that two reports can be told apart line by line."""
    members = []
    for key, value in report.to_dict().items():
        rows = [_dump(row) for row in value] if key in ("checks", "places") and value else None
        members.append(f"{json.dumps(key)}: " + ("[\n  " + ",\n  ".join(rows) + "\n ]" if rows else _dump(value)))
    write_text(path, "{\n " + ",\n ".join(members) + "\n}\n")


def read_json(path: FileName) -> Report:
    """Return the report that `write_json` wrote, exactly.

    Raises:
        FormatError: if the file is no report, or says another verdict than its checks.
    """
    found = files.read_json(Path(path))
    try:
        members = {key: found[key] for key in _FIELDS}
        if extra := found.keys() - members.keys():
            raise KeyError(*sorted(extra))
        passed = members.pop("passed")
        members["seconds"] = float(members["seconds"])
        members["checks"] = [_row(Check, row) for row in members["checks"]]
        members["places"] = [_row(Place, row) for row in members["places"]]
        report = Report(**members)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise FormatError(f"{path}: the file must be a parity report, got one that fails: {problem}") from error
    if report.passed != passed:
        raise FormatError(f"{path}: 'passed' must be {report.passed} as the checks are, got {passed!r}")
    return report


def _dump(value: Any) -> str:
    return json.dumps(value, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    """Return what JSON can hold of a numpy scalar or array; of anything else, its text."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
        return value if not isinstance(value, float) or math.isfinite(value) else str(value)
    return str(value)


def _row(kind: type[Row], found: Mapping[str, Any]) -> Row:
    """Return a check or a place, its numbers and tuples as they were."""
    values = dict(found)
    for key in ("distance", "floor", "limit", "scale"):
        if key in values:
            values[key] = float(values[key])
    for key in ("sides", "lines", "index"):
        if key in values:
            values[key] = tuple(values[key])
    if "values" in values:
        values["values"] = tuple(map(float, values["values"]))
    return kind(**values)


# -------------------------------------------------------------------------------------------------------------- JUnit


def write_junit(report: Report, path: FileName) -> None:
    """Write a report as JUnit XML: a suite a head, a test a case, kind and pair of sides, with all seeds in one.

    The time of the run is shared out by the number of checks. A report without checks holds one error, so that no CI
    takes it for a success.
    """
    heads = grouped(report.checks, lambda check: check.head)
    suites = [_suite(report, head, checks) for head, checks in heads.items()] or [_empty(report)]
    tests = str(sum(len(suite.findall("testcase")) for suite in suites))
    failures = str(sum(int(suite.attrib["failures"]) for suite in suites))
    errors = "0" if report.checks else "1"
    counts = {"tests": tests, "failures": failures, "errors": errors, "skipped": "0", "time": _time(report, 1.0)}
    root = ElementTree.Element("testsuites", {"name": clean(f"xlbridge parity: {report.subject}"), **counts})
    root.extend(suites)
    ElementTree.indent(root, " ")
    text = ElementTree.tostring(root, encoding="unicode")
    write_text(path, f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n')


def _suite(report: Report, head: str, checks: list[Check]) -> ElementTree.Element:
    tests = grouped(checks, lambda check: (check.kind, check.case, check.sides))
    bad = sum(not all(check.passed for check in group) for group in tests.values())
    part = len(checks) / len(report.checks)
    suite = _suite_element(report, head, len(tests), failures=bad, part=part)
    for (kind, case, sides), group in tests.items():
        name = f"{kind}, {case}: {' and '.join(sides)}"
        test = _test_element(suite, head, name, _time(report, len(group) / len(report.checks)))
        if found := failed(group):
            top = found[0]
            message = f"{len(found)} of {count(len(group), 'tensor')} differ, worst {_line(top)}"
            failure = ElementTree.SubElement(test, "failure", type="ParityError", message=clean(message))
            failure.text = clean(_explained(report, found))
        else:
            told = f"{count(len(group), 'tensor')}, nearest to its limit {_line(worst(group))}"
            ElementTree.SubElement(test, "system-out").text = clean(told)
    return suite


def _empty(report: Report) -> ElementTree.Element:
    suite = _suite_element(report, "parity", 1, errors=1)
    test = _test_element(suite, "parity", "something is compared", _time(report, 1.0))
    message = "No check was made, so nothing is shown to agree."
    ElementTree.SubElement(test, "error", type="ParityError", message=message).text = message
    return suite


def _suite_element(
    report: Report, name: str, tests: int, failures: int = 0, errors: int = 0, part: float = 1.0
) -> ElementTree.Element:
    counts = {"tests": str(tests), "failures": str(failures), "errors": str(errors), "skipped": "0"}
    when = {"time": _time(report, part), "timestamp": clean(report.started)}
    suite = ElementTree.Element("testsuite", {"name": clean(name), **counts, **when})
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in {"subject": report.subject, **report.versions, **report.options}.items():
        ElementTree.SubElement(properties, "property", name=clean(key), value=clean(value))
    return suite


def _test_element(suite: ElementTree.Element, head: str, name: str, time: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=clean(f"parity.{head}"), name=clean(name), time=time)


def _time(report: Report, part: float) -> str:
    return f"{report.seconds * part:.6f}"


def _line(check: Check) -> str:
    numbers = f"distance {short(check.distance)}, floor {floor_of(check)}, limit {short(check.limit)}"
    note = f" ({check.note})" if check.note else ""
    of = " of" if check.passed else ""
    return f"{check.name}, seed {check.seed}: {numbers}, {percent(check)}{of} the limit{note}"


def _explained(report: Report, found: list[Check]) -> str:
    lines = [_line(check) for check in found[:_MOST_LISTED]]
    if more := len(found) - len(lines):
        lines.append(f"... and {more:,} more")
    return "\n".join(
        [*lines, *(f"first place, case {place.case}, seed {place.seed}: {place}" for place in places_of(report, found))]
    )
