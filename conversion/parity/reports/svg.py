"""Plots as SVG: points and levels over whole numbers, on a logarithmic axis with room for zero and for no number.

Colours and fonts come from the page's style sheet by class, so that a plot is right in light, in dark and on paper.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from conversion.parity.reports.markup import Html, element, join

WIDTH, HEIGHT = 960, 340
LEFT, RIGHT, TOP, BOTTOM = 84, 16, 14, 56
INSET = 12  # from the axis to the first point
BAND = 32  # the height of a strip for zero, for infinity
TAGS = 36  # and of one for tags
MOST_TICKS = 7
TAG_ROOM = 24


@dataclass(frozen=True)
class Point:
    """A value over a whole number. `hint` is told when the pointer rests on it; `tag` marks it, such as with `1`."""

    x: int
    y: float
    hint: str = ""
    failed: bool = False
    tag: str = ""


@dataclass(frozen=True)
class Series:
    """Values of one meaning: points (`mark` is circle, square or diamond) or, without mark, a level in steps."""

    label: str
    style: str
    points: Sequence[Point]
    mark: str = ""


@dataclass(frozen=True)
class Plot:
    """Series over one axis of whole numbers."""

    title: str
    x_title: str
    y_title: str
    series: Sequence[Series]
    joined: bool = True  # whether points next to each other are joined by a line


class Axes:
    """Where values lie on the drawing."""

    def __init__(self, plot: Plot):
        points = [point for series in plot.series for point in series.points]
        lying = [point.y for point in points if 0 < point.y < math.inf]
        self.low = math.floor(math.log10(min(lying, default=1e-9)))
        self.high = max(math.ceil(math.log10(max(lying, default=1.0))), self.low + 1)
        self.first, self.last = min(point.x for point in points), max(point.x for point in points)
        self.has_zero = any(point.y == 0 for point in points)
        self.has_endless = any(not math.isfinite(point.y) for point in points)
        self.tag_y = TOP + 10
        self.top = TOP + TAGS * any(point.tag for point in points)
        self.endless = self.top + 10
        self.roof = self.top + BAND * self.has_endless
        self.foot = HEIGHT - BOTTOM
        self.ground = self.foot - BAND * self.has_zero
        self.zero = self.foot - 10

    def x(self, value: float) -> float:
        """Return where a whole number lies; each has a column of its own."""
        room = WIDTH - LEFT - RIGHT - 2 * INSET
        return LEFT + INSET + room * (value - self.first + 0.5) / (self.last - self.first + 1)

    def y(self, value: float) -> float:
        """Return where a value lies: zero below, what is no number or endless above."""
        if not math.isfinite(value):
            return self.endless
        if value <= 0:
            return self.zero
        part = (math.log10(value) - self.low) / (self.high - self.low)
        return self.ground - part * (self.ground - self.roof)


def draw(plot: Plot) -> Html:
    """Return a plot as an SVG element."""
    axes = Axes(plot)
    levels = [series for series in plot.series if not series.mark]
    marked = [series for series in plot.series if series.mark]
    return element(
        "svg",
        element("title", plot.title),
        *_y_axis(axes, plot.y_title),
        *_x_axis(axes, plot.x_title),
        *(_level(axes, series) for series in levels),
        *(_line(axes, series) for series in marked if plot.joined),
        *(_marks(axes, series) for series in marked),
        *_tags(axes, [point for series in marked for point in series.points if point.tag]),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
    )


def swatch(series: Series) -> Html:
    """Return a small drawing of how a series looks, for a legend."""
    if not series.mark:
        drawn: Html = element("path", d="M1 8H27", class_=f"level {series.style}")
    else:
        drawn = element("path", d=_outline(series.mark, 14, 8, 5), class_=f"mark {series.style}")
    return element("svg", drawn, viewBox="0 0 28 16", class_="swatch", aria_hidden="true")


# --------------------------------------------------------------------------------------------------------------- axes


def _y_axis(axes: Axes, title: str) -> Iterator[Html]:
    every = math.ceil((axes.high - axes.low) / MOST_TICKS)
    for power in range(-(-axes.low // every) * every, axes.high + 1, every):
        yield from _y_tick(axes.y(10.0**power) if power > -308 else axes.ground, f"1e{power}", "grid")
    if axes.has_zero:
        yield from _y_tick(axes.zero, "0", "grid apart")
    if axes.has_endless:
        yield from _y_tick(axes.endless, "∞, NaN", "grid apart")
    yield element("path", d=f"M{LEFT} {axes.roof:.1f}V{axes.ground:.1f}", class_="axis")
    middle = (axes.top + axes.foot) / 2
    yield _text(18, middle, title, "title", transform=f"rotate(-90 18 {middle:.1f})")


def _y_tick(y: float, label: str, style: str) -> Iterator[Html]:
    yield element("path", d=f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}", class_=style)
    yield _text(LEFT - 8, y + 4.5, label, "end")


def _x_axis(axes: Axes, title: str) -> Iterator[Html]:
    for value in _whole_ticks(axes.first, axes.last):
        yield _text(axes.x(value), axes.foot + 20, f"{value:,}", "middle")
    yield element("path", d=f"M{LEFT} {axes.foot}H{WIDTH - RIGHT}", class_="axis")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, title, "title")


def _whole_ticks(first: int, last: int, room: int = 24) -> range:
    """Return whole numbers that an axis can name side by side, in steps of 1, 2 or 5 times a power of ten."""
    least = (last - first) / room
    step = next(unit * 10**power for power in range(9) for unit in (1, 2, 5) if unit * 10**power >= least)
    return range(-(-first // step) * step, last + 1, step)


def _text(x: float, y: float, text: str, style: str, **attributes: object) -> Html:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", class_=style, **attributes)


# ------------------------------------------------------------------------------------------------------------- series


def _level(axes: Axes, series: Series) -> Html:
    """Return a level in steps, which joins neighbours only."""
    half = axes.x(0.5) - axes.x(0)
    commands, before = [], None
    for point in series.points:
        x, y = axes.x(point.x), axes.y(point.y)
        begin = f"V{y:.1f}" if before == point.x - 1 else f"M{x - half:.1f} {y:.1f}"
        commands.append(f"{begin}H{x + half:.1f}")
        before = point.x
    return element("path", d="".join(commands), class_=f"level {series.style}")


def _line(axes: Axes, series: Series) -> Html | None:
    """Return a thin line through neighbours that are numbers above zero."""
    commands, before = [], None
    for point in series.points:
        if not 0 < point.y < math.inf:
            before = None
            continue
        commands.append(f"{'L' if before == point.x - 1 else 'M'}{axes.x(point.x):.1f} {axes.y(point.y):.1f}")
        before = point.x
    return element("path", d="".join(commands), class_=f"line {series.style}") if commands else None


def _marks(axes: Axes, series: Series) -> Html:
    count = axes.last - axes.first
    size = 4.5 if count < 100 else 3 if count < 300 else 2
    style = "dense" if count >= 300 else ""
    return element("g", *(_mark(axes, series, point, size) for point in series.points), class_=style or None)


def _mark(axes: Axes, series: Series, point: Point, size: float) -> Html:
    x, y = axes.x(point.x), axes.y(point.y)
    hint = element("title", point.hint) if point.hint else None
    mark = element("path", hint, d=_outline(series.mark, x, y, size), class_=f"mark {series.style}")
    return join(mark, ring(x, y, size + 4)) if point.failed else mark


def _outline(mark: str, x: float, y: float, size: float) -> str:
    if mark == "circle":
        return f"M{x - size:.1f} {y:.1f}a{size} {size} 0 1 0 {2 * size} 0a{size} {size} 0 1 0 {-2 * size} 0z"
    if mark == "square":
        side = size * 0.9
        return f"M{x - side:.1f} {y - side:.1f}h{2 * side:.1f}v{2 * side:.1f}h{-2 * side:.1f}z"
    reach = size * 1.25
    return f"M{x:.1f} {y - reach:.1f}l{reach:.1f} {reach:.1f}l{-reach:.1f} {reach:.1f}l{-reach:.1f} {-reach:.1f}z"


def ring(x: float, y: float, radius: float) -> Html:
    """Return what goes around the mark of a failure."""
    return element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=radius, class_="failed")


# --------------------------------------------------------------------------------------------------------------- tags


def _tags(axes: Axes, points: Iterable[Point]) -> Iterator[Html]:
    """Yield tags in a row above the plot, side by side, each with a line down to its point."""
    tagged = sorted(points, key=lambda point: point.x)
    places = spread([axes.x(point.x) for point in tagged], TAG_ROOM, LEFT + 10, WIDTH - RIGHT - 10)
    for point, x in zip(tagged, places, strict=True):
        d = f"M{x:.1f} {axes.tag_y + 10:.1f}L{axes.x(point.x):.1f} {axes.y(point.y) - 8:.1f}"
        yield element("path", d=d, class_="lead")
        yield element("circle", cx=f"{x:.1f}", cy=axes.tag_y, r=9.5, class_="tag")
        yield _text(x, axes.tag_y + 4.2, point.tag, "tag")


def spread(wanted: Sequence[float], room: float, low: float, high: float) -> list[float]:
    """Return ascending positions near those wanted, `room` apart and, if they fit, between `low` and `high`."""
    found: list[float] = []
    for position in wanted:
        found.append(max(position, found[-1] + room if found else low))
    ceiling = high
    for number in reversed(range(len(found))):
        found[number] = min(found[number], ceiling)
        ceiling = found[number] - room
    return found
