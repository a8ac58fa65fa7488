"""A report as one HTML page that needs nothing else: no script, no font, no picture from anywhere."""

import json
from collections.abc import Iterable
from importlib import resources

from conversion.parity.reports import charts
from conversion.parity.reports.machine import FileName, write_text
from conversion.parity.reports.markup import Html, breakable, element, join
from conversion.parity.reports.summary import (
    command,
    count,
    duration,
    failed,
    kinds_of,
    next_steps,
    percent,
    precision,
    reason,
    remark,
    rerun,
    severity,
    share,
    shell_lines,
    short,
    verdict,
)
from conversion.parity.results import KINDS, Check, Place, Report

MOST_ROWS, MOST_PLACES = 25, 20
# Nothing may be loaded and nothing may run, whatever a name holds.
_HEAD = Html(
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta name="color-scheme" content="light dark">'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
)
_WORDS = {
    "Distance": "The largest absolute difference between the two sides, over all elements of a tensor.",
    "Floor": "How far rounding alone takes the more exact of the two sides from its own result in float64, measured "
    "in this very run. No comparison in that precision can expect to be closer. In float64 itself there is none.",
    "Limit": "The largest distance that passes. In float64 it is a tiny fixed number, as only the maths is judged; in "
    "a lower precision it is a small multiple of the floor and a few roundings, so that it is neither flaky nor blind.",
    "Share of the limit": "Distance divided by limit. Up to 100% the sides agree; 3x is three times what is allowed.",
    "Place": "The first operation at which the sides part, found by running both in float64, step by step.",
}


def write_html(report: Report, path: FileName) -> None:
    """Write a report as one HTML page with all its plots, to be read by people, on a screen or printed."""
    write_text(path, html(report))


def html(report: Report) -> str:
    """Return a report as an HTML page."""
    style = Html(resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8"))
    title = f"{verdict(report)}: {report.subject}"
    head = element("head", _HEAD, element("title", title), element("style", style))
    parts = (_banner(report), _places(report), _compared(report), _maps(report), *_plots(report), _table(report))
    main = element("main", *(part for part in parts if part), _again(report), _glossary(report))
    return f"<!DOCTYPE html>\n{element('html', head, element('body', main), lang='en')}\n"


# ------------------------------------------------------------------------------------------------------------- verdict


def _banner(report: Report) -> Html:
    sign = "✓" if report.passed else "✗"
    name = element("p", "Parity of ", element("strong", breakable(report.subject)), class_="subject")
    title = element("h1", element("span", sign, class_="sign", aria_hidden="true"), verdict(report))
    items = [element("li", step) for step in next_steps(report)]
    if report.checks:
        items.append(element("li", "Run the first failing head alone:", _shell(rerun(report))))
    below = None if report.passed else join(element("h2", "What to do next"), element("ol", *items, class_="steps"))
    why = element("p", reason(report), class_="reason")
    return element("header", name, title, why, below, class_="good" if report.passed else "bad")


def _places(report: Report) -> Html | None:
    if not report.places:
        return None
    boxes = [_box(place) for place in report.places[:MOST_PLACES]]
    more = len(report.places) - len(boxes)
    rest = element("p", f"{count(more, 'more place')} in the JSON report.") if more else None
    return element("section", element("h2", "Where the sides part first"), *boxes, rest)


def _box(place: Place) -> Html:
    name = f"{place.operation}[{', '.join(map(str, place.index))}]"
    path = (element("code", breakable(place.layer)), " › ", element("code", breakable(name)))
    where = element("p", *path, class_="where")
    case = element("p", f"{place.head}, case {place.case}, seed {place.seed}", class_="case")
    titles = element("tr", *(element("th", title, scope="col") for title in ("side", "value there", "line of code")))
    rows = [
        element(
            "tr",
            element("th", side, scope="row"),
            element("td", repr(float(value)), class_="number"),
            element("td", element("code", breakable(line))),
        )
        for side, value, line in zip(place.sides, place.values, place.lines, strict=True)
    ]
    told = f"Largest difference in this tensor, in float64: {short(place.distance)}"
    table = element("div", element("table", element("thead", titles), element("tbody", *rows)), class_="wide")
    return element("article", where, case, table, element("p", told, class_="case"), class_="place")


# ------------------------------------------------------------------------------------------------------------ compared


def _compared(report: Report) -> Html:
    heads = dict.fromkeys(check.head for check in report.checks)
    bad = len(failed(report.checks))
    outcome = f"of which {bad:,} failed" if bad else "all passed"
    shown = {
        "Subject": breakable(report.subject),
        "Sides": _listed(" and ".join(check.sides) for check in report.checks),
        "Kinds": _listed(kinds_of(report.checks)),
        "Heads": join(f"{len(heads)}: " if len(heads) > 1 else "", _listed(heads)),
        "Cases": _listed(check.case for check in report.checks),
        "Draws": _draws({check.seed for check in report.checks}),
        "Checks": f"{len(report.checks):,}, {outcome}" if report.checks else "none",
        "Started": report.started,
        "Took": duration(report.seconds),
        "Versions": _listed(f"{name} {version}" for name, version in report.versions.items()),
        "Options": _listed(f"{name} = {_value(value)}" for name, value in report.options.items()),
    }
    pairs = [element("div", element("dt", name), element("dd", value)) for name, value in shown.items()]
    written = json.dumps(dict(report.config), indent=2, default=str, ensure_ascii=False)
    summary = element("summary", f"Configuration ({count(len(report.config), 'key')})")
    config = element("details", summary, element("pre", written)) if report.config else None
    return element("section", element("h2", "What was compared"), element("dl", *pairs), config)


def _draws(seeds: set[int]) -> str:
    """Return how often weights and inputs were drawn, and by which seeds."""
    return f"{len(seeds)}, by seed{'s' * (len(seeds) > 1)} {_ranges(seeds)}" if seeds else "none"


def _listed(values: Iterable[str]) -> Html:
    """Return different values with commas, none of which begins a line."""
    names = [breakable(value) for value in dict.fromkeys(values)]
    return Html(", ".join(names)) if names else Html("–")


def _value(value: object) -> str:
    return ", ".join(map(str, value) if isinstance(value, list | tuple) else str(value).split(","))


def _ranges(numbers: set[int]) -> str:
    """Return whole numbers as ranges: `0–2, 7`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs) or "–"


# ------------------------------------------------------------------------------------------------------ maps and plots


def _maps(report: Report) -> Html | None:
    if not report.checks:
        return None
    told = "Each cell is the check that takes most of its limit. Rest the pointer on a cell for its numbers."
    maps = (charts.heads_by_kind(report), charts.heads_by_case(report), charts.heads_by_sides(report))
    title = element("h2", "How much of the limit is used")
    return element("section", title, element("p", told), charts.legend(), *maps)


def _plots(report: Report) -> list[Html]:
    plots = (
        charts.layers(report, ("float32", "float64"), "Error in each layer, against its floor"),
        charts.layers(report, ("bfloat16", "float16"), "The same in half precision"),
        charts.gradients(report),
        charts.training(report),
    )
    return [element("section", plot) for plot in plots if plot]


def _table(report: Report) -> Html | None:
    if not report.checks:
        return None
    worst = sorted(report.checks, key=severity, reverse=True)[:MOST_ROWS]
    cells = [element("th", title, scope="col") for title in ("", "tensor", "head", "case, seed", "kind", "sides")]
    cells += [element("th", title, scope="col", class_="number") for title in ("distance", "floor", "limit")]
    cells.append(element("th", "share of limit", scope="col"))
    body = element("tbody", *map(_row, worst))
    table = element("table", element("thead", element("tr", *cells)), body, class_="worst")
    bad = len(failed(report.checks))
    name = "The worst checks" if bad else "The checks nearest to their limit"
    total = count(len(report.checks), "check")
    told = f"{len(worst)} of {total}, worst first; {bad:,} failed. The JSON report has all of them."
    return element("section", element("h2", name), element("p", told), element("div", table, class_="wide"))


def _row(check: Check) -> Html:
    sign = "ok" if check.passed else "✗"
    note = element("div", remark(check), class_="note") if remark(check) else None
    used = min(share(check), 1.0)
    bar = element("span", element("span", style=f"width:{100 * used:.1f}%"), class_="bar", aria_hidden="true")
    sides = join(breakable(check.sides[0]), "\u00a0– ", breakable(check.sides[1]))
    kind = ", ".join(dict.fromkeys((check.kind, precision(check))))
    texts = (f"{check.case}, {check.seed}", kind, sides)
    numbers = (short(check.distance), short(check.floor) if check.floor else "–", short(check.limit))
    return element(
        "tr",
        element("td", sign, class_="sign"),
        element("td", element("code", breakable(check.name)), note),
        element("td", breakable(check.head)),
        *(element("td", text if isinstance(text, Html) else breakable(text)) for text in texts),
        *(element("td", number, class_="number") for number in numbers),
        element("td", bar, percent(check), class_="used"),
        class_=None if check.passed else "bad",
    )


# ------------------------------------------------------------------------------------------------------------- reading


def _again(report: Report) -> Html:
    return element("section", element("h2", "Run it again"), _shell(command(report)))


def _shell(text: str) -> Html:
    return element("pre", "\n".join(shell_lines(text, 100)), class_="shell")


def _glossary(report: Report) -> Html:
    words = dict(_WORDS) if report.places else {word: text for word, text in _WORDS.items() if word != "Place"}
    words |= {
        f"Kind “{kind}”": KINDS[kind][0].upper() + KINDS[kind][1:] + "."
        for kind in kinds_of(report.checks)
        if kind in KINDS
    }
    pairs = [element("div", element("dt", word), element("dd", text)) for word, text in words.items()]
    return element("section", element("h2", "What the words mean"), element("dl", *pairs))
