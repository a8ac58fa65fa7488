"""The plots of a report: error a layer, gradient error a parameter, training over steps; the map of heads."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from conversion.parity.reports import svg
from conversion.parity.reports.markup import Html, breakable, element, join
from conversion.parity.reports.summary import (
    count,
    floor_of,
    grouped,
    kinds_of,
    numbered,
    percent,
    precision,
    share,
    short,
    used,
    worst,
)
from conversion.parity.results import Check, Report

# How a precision looks: its class in the style sheet and its mark.
LOOKS = {
    "float32": ("one", "circle"),
    "float64": ("two", "square"),
    "bfloat16": ("three", "diamond"),
    "float16": ("four", "circle"),
}
MOST_TAGS = 6
MOST_PARAMETERS = 1000
MOST_COLUMNS = 9
Y_TITLE = "largest absolute difference (log)"
# Shares of the limit where the colour changes, and the class of each step.
STEPS = ((0.01, "s0"), (0.1, "s1"), (0.25, "s2"), (0.5, "s3"), (0.75, "s4"), (1.0, "s5"))


# -------------------------------------------------------------------------------------------------------------- plots


def layers(report: Report, kinds: Sequence[str], title: str) -> Html | None:
    """Return the plot of `hidden_states.N`: distance, floor and limit of each precision in `kinds`."""
    series: list[svg.Series] = []
    for kind in kinds:
        found = numbered((check for check in report.checks if check.kind == kind), "hidden_states")
        tops = [(layer, worst(checks)) for layer, checks in found.items()]
        series += _compared(kind, tops)
    plot = svg.Plot(title, "hidden state (0: embeddings, N: after layer N)", Y_TITLE, series)
    told = "Each point is the check that takes most of its limit, over all heads, cases, seeds and pairs of sides."
    return _figure(plot, told) if series else None


def gradients(report: Report) -> Html | None:
    """Return the plot of the gradient's distance at each parameter, sorted, with its limit."""
    groups = _by_precision(check for check in report.checks if check.kind == "gradients")
    if not groups:
        return None
    found = {kind: {check.name: check for check in _worst_of_name(checks)} for kind, checks in groups.items()}
    ranked = sorted(next(iter(found.values())).values(), key=lambda check: -_finite(check.distance))
    names = dict.fromkeys([check.name for check in ranked] + [name for checks in found.values() for name in checks])
    every = [found[kind][name] for name in names for kind in found if name in found[kind]]
    keyed = sorted(every, key=share, reverse=True)
    if len(names) > MOST_PARAMETERS:
        kept = set(list(dict.fromkeys(check.name for check in keyed))[:MOST_PARAMETERS])
        names = {name: None for name in names if name in kept}
    tagged = _tagged(keyed)
    series: list[svg.Series] = []
    for kind, checks in found.items():
        tops = [(rank, checks[name]) for rank, name in enumerate(names, 1) if name in checks]
        series += _compared(kind, tops, tagged, floors=False)
    ranks = f"{count(len(names), 'parameter')}, sorted by distance"
    plot = svg.Plot("Gradient error of each parameter", ranks, Y_TITLE, series, joined=False)
    told = "Each point is the worst check of its parameter; those with a number take most of their limit."
    return _figure(plot, told, _key(tagged))


def training(report: Report) -> Html | None:
    """Return the plot of the distance between the sides' losses over the steps of training."""
    series: list[svg.Series] = []
    for kind, checks in _by_precision(check for check in report.checks if check.kind == "training").items():
        tops = [(step, worst(found)) for step, found in numbered(checks, "loss").items()]
        series += _compared(kind, tops)
    plot = svg.Plot("Training: how far the losses part", "step of training", Y_TITLE, series)
    told = "Both sides start alike and take the same steps; each point is the worst check of its step."
    return _figure(plot, told) if series else None


def _compared(
    kind: str, tops: Sequence[tuple[int, Check]], tagged: Mapping[int, Check] | None = None, floors: bool = True
) -> list[svg.Series]:
    """Return limit, floor and distance of one precision as series."""
    if not tops:
        return []
    style, mark = LOOKS[kind]
    tags = {id(check): str(number) for number, check in (tagged or {}).items()}
    points = [
        svg.Point(x, check.distance, _hint(check), not check.passed, tags.get(id(check), "")) for x, check in tops
    ]
    found = [svg.Series(f"{kind}: distance", style, points, mark)]
    lying = [svg.Point(x, check.floor) for x, check in tops if check.floor]
    if floors and lying:
        found.append(svg.Series(f"{kind}: floor", f"floor {style}", lying))
    allowed = [svg.Point(x, check.limit) for x, check in tops if check.limit]
    found += [svg.Series(f"{kind}: limit", f"limit {style}", allowed)] if allowed else []
    return found


def _by_precision(checks: Iterable[Check]) -> dict[str, list[Check]]:
    groups = grouped(checks, precision)
    return {kind: groups[kind] for kind in LOOKS if kind in groups}


def _worst_of_name(checks: Iterable[Check]) -> list[Check]:
    return [worst(group) for group in grouped(checks, lambda check: check.name).values()]


def _finite(value: float) -> float:
    return value if value == value else float("inf")


def _tagged(checks: Iterable[Check]) -> dict[int, Check]:
    """Return the first few checks of different names, numbered."""
    first: dict[str, Check] = {}
    for check in checks:
        if share(check):
            first.setdefault(check.name, check)
    return dict(enumerate(list(first.values())[:MOST_TAGS], 1))


def _key(tagged: Mapping[int, Check]) -> Html | None:
    rows = [element("li", element("code", breakable(check.name)), f": {used(check)}") for check in tagged.values()]
    return element("ol", *rows, class_="key") if rows else None


def _figure(plot: svg.Plot, told: str, after: Html | None = None) -> Html:
    items = [element("li", svg.swatch(series), series.label) for series in plot.series]
    if any(point.failed for series in plot.series for point in series.points):
        drawn = element("svg", svg.ring(14, 8, 6.5), viewBox="0 0 28 16", class_="swatch", aria_hidden="true")
        items.append(element("li", drawn, "over its limit"))
    legend = element("ul", *items, class_="legend")
    drawing = element("div", svg.draw(plot), class_="wide plot")
    return element("figure", element("h2", plot.title), legend, drawing, element("figcaption", told), after)


def _hint(check: Check) -> str:
    numbers = f"distance {short(check.distance)}, floor {floor_of(check)}, limit {short(check.limit)}"
    return f"{check.name} of {check.head}, {check.case}, seed {check.seed}: {numbers}"


# ---------------------------------------------------------------------------------------------------------------- map


def heads_by_kind(report: Report) -> Html:
    """Return the map of heads and kinds."""
    return _heat_map(report.checks, "kind of check", lambda check: check.kind, kinds_of(report.checks))


def heads_by_case(report: Report) -> Html | None:
    """Return the map of heads and cases, if there is more than one case; some kinds have none of their own."""
    checks = [check for check in report.checks if check.kind not in ("static", "training")]
    cases = list(dict.fromkeys(_case(check) for check in checks))
    return _heat_map(checks, "case", _case, cases) if len(cases) > 1 else None


def heads_by_sides(report: Report) -> Html | None:
    """Return the map of heads and modes, which are pairs of sides, if there is more than one."""
    pairs = list(dict.fromkeys(_pair(check) for check in report.checks))
    return _heat_map(report.checks, "pair of sides", _pair, pairs) if len(pairs) > 1 else None


def legend() -> Html:
    """Return what the colours of the maps mean."""
    labels = ("below 1%", "1 to 10%", "10 to 25%", "25 to 50%", "50 to 75%", "75 to 100%")
    named = zip(STEPS, labels, strict=True)
    steps = [element("li", element("span", class_=f"box {step}"), label) for (_, step), label in named]
    bad = element("li", element("span", "✗", class_="box bad"), "over the limit: differs")
    none = element("li", element("span", "–", class_="box none"), "not compared")
    return element("ul", *steps, bad, none, class_="legend")


def _case(check: Check) -> str:
    """Return the case without its variant: `plain` of `plain/unlabelled`."""
    return check.case.partition("/")[0]


def _pair(check: Check) -> str:
    return "\u00a0– ".join(check.sides)


def _heat_map(checks: Sequence[Check], axis: str, column: Callable[[Check], str], columns: Sequence[str]) -> Html:
    """Return a table; one of many columns and few heads is turned, as it would be too wide."""

    cells = grouped(checks, lambda check: (check.head, column(check)))
    heads = list(dict.fromkeys(check.head for check in checks))

    turned = len(columns) > max(MOST_COLUMNS, len(heads))
    across, down, corner = (heads, columns, f"{axis} \\ head") if turned else (columns, heads, f"head \\ {axis}")
    titles = [element("th", breakable(name), scope="col") for name in across]
    rows = []
    for row in down:
        found = [cells.get((name, row) if turned else (row, name)) for name in across]
        rows.append(element("tr", element("th", breakable(row), scope="row"), *map(_cell, found)))

    body = join(
        element("thead", element("tr", element("th", corner, class_="corner", scope="col"), *titles)),
        element("tbody", *rows),
    )
    return element("div", element("table", body, class_="map"), class_="wide")


def _cell(checks: Sequence[Check] | None) -> Html:
    if not checks:
        return element("td", "–", class_="none", title="not compared")
    top = worst(checks)
    hint = f"{count(len(checks), 'check')}; worst {_hint(top)}"
    if not top.passed:
        return element("td", "✗ " + percent(top), class_="bad", title=hint)
    step = next(step for ceiling, step in STEPS if share(top) <= ceiling)
    return element("td", percent(top), class_=step, title=hint)
