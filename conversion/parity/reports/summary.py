"""What all forms of a report say alike: groups of checks, their worst, numbers, sentences, the command."""

import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from conversion.parity.results import KINDS, Check, Place, Report

Key = TypeVar("Key")

# Where to look when a kind of check fails and none before it does.
ADVICE = {
    "static": "A parameter is missing or has another shape. Mend that first: all other differences may follow from it.",
    "float64": "The maths differs: rounding cannot explain it in float64.",
    "float32": "No check in float64 failed, some in float32 did: look for another order of operations, a cast to lower "
    "precision, or an epsilon or mask value that float32 cannot hold.",
    "bfloat16": "No check in float32 failed, some in bfloat16 did: look for what only one side does in float32.",
    "float16": "No check in float32 failed, some in float16 did: look for overflow (mask values, squares) and for what "
    "only one side does in float32.",
    "gradients": "No check of the forward pass failed, some of gradients did: look for a stopped gradient, a parameter "
    "that is tied on one side only, or another loss reduction.",
    "training": "No check of gradients failed, some of training did: look at the optimiser, at dropout left on, and at "
    "parameters that are not trained.",
    "tokens": "No check of scores failed, some of tokens did: look at what is fed back (memory, positions), at ties.",
    "mode": "The same model differs from itself in another mode: look at what the compiler may fuse, cast or skip.",
}
# What the command takes; a report's other options have no flag.
FLAGS = ("all", "first", "against", "frameworks", "heads", "modes", "dtypes", "device", "seeds")
# Characters that XML cannot or should not hold: controls, lone surrogates.
_INVALID = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: object) -> str:
    """Return the text without characters that XML and HTML cannot or should not hold."""
    return _INVALID.sub("", str(text))


# ------------------------------------------------------------------------------------------------------------- checks


def share(check: Check) -> float:
    """Return how much of its limit a check takes: at most 1 if it passed, above 1 if not, never NaN."""
    if check.passed:
        return 0.0 if math.isnan(check.share) else min(check.share, 1.0)
    return check.share if check.share > 1 else math.inf


def worst(checks: Iterable[Check]) -> Check:
    """Return the check that takes most of its limit; of those without end, NaN before infinity before the rest."""
    return max(checks, key=severity)


def severity(check: Check) -> tuple[float, bool, float]:
    """Return what checks are sorted by, the worst last."""
    return share(check), math.isnan(check.distance), 0.0 if math.isnan(check.distance) else check.distance


def grouped(checks: Iterable[Check], key: Callable[[Check], Key]) -> dict[Key, list[Check]]:
    """Return the checks by key, in the order in which the keys first come."""
    groups: dict[Key, list[Check]] = {}
    for check in checks:
        groups.setdefault(key(check), []).append(check)
    return groups


def failed(checks: Iterable[Check]) -> list[Check]:
    """Return the checks that did not pass, worst first."""
    return sorted((check for check in checks if not check.passed), key=severity, reverse=True)


def precision(check: Check) -> str:
    """Return the precision in which a check was made; a kind that has none, such as shapes, is itself returned."""
    if check.kind in ("static", "tokens"):
        return check.kind
    return check.precision


def remark(check: Check) -> str:
    """Return what a check has to say beside its numbers: which model it was of several, and its note."""
    return "; ".join(said for said in (check.model, check.note) if said)


def kinds_of(checks: Iterable[Check]) -> list[str]:
    """Return the kinds that the checks have, in the order in which they are made."""
    known = list(KINDS)
    found = dict.fromkeys(check.kind for check in checks)
    return sorted(found, key=lambda kind: known.index(kind) if kind in known else len(known))


def numbered(checks: Iterable[Check], stem: str) -> dict[int, list[Check]]:
    """Return the checks of `stem.0`, `stem.1`, ... by number, in its order."""
    groups: dict[int, list[Check]] = {}
    for check in checks:
        name, _, number = check.name.rpartition(".")
        if name == stem and number.isdecimal():
            groups.setdefault(int(number), []).append(check)
    return dict(sorted(groups.items()))


def places_of(report: Report, checks: Iterable[Check]) -> list[Place]:
    """Return the places that belong to checks: of the same head and sides; the first case that failed has them."""
    wanted = {(check.head, check.sides) for check in checks}
    return [place for place in report.places if (place.head, place.sides) in wanted]


# ------------------------------------------------------------------------------------------------------------ numbers


def short(value: float) -> str:
    """Return a number in at most 9 characters: `1.23e-07`, `0`, `inf`, `nan`."""
    return f"{value:.2e}" if value and math.isfinite(value) else f"{value:g}"


def floor_of(check: Check) -> str:
    """Return a check's floor, `-` where there is none."""
    return short(check.floor) if check.floor else "-"


def percent(check: Check) -> str:
    """Return the share of the limit for people: `12%`, and above it `3.4x`."""
    part = share(check)
    if check.passed:
        return "0%" if not part else "<0.1%" if part < 0.001 else f"{100 * part:.2g}%" if part < 0.995 else "100%"
    if math.isnan(check.distance) or math.isnan(check.limit):
        return "NaN"
    if math.isinf(part):
        return "inf"
    return f"{part:.0e}x".replace("e+0", "e").replace("e+", "e") if part >= 1000 else f"{part:.3g}x"


def used(check: Check) -> str:
    """Return distance and share of the limit in words: `1.2e-07, 48% of its limit`."""
    if not math.isfinite(share(check)):
        return f"{short(check.distance)}, beyond any limit"
    return f"{short(check.distance)}, {percent(check)}{' of' if check.passed else ''} its limit"


def count(number: int, what: str) -> str:
    """Return `1 check`, `2,000 checks`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def duration(seconds: float) -> str:
    """Return `0.4 s`, `12 s`, `3 min 05 s`, `2 h 03 min`."""
    if not seconds >= 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60:02} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02} min"


# ---------------------------------------------------------------------------------------------------------- sentences


def verdict(report: Report) -> str:
    """Return the verdict in three words."""
    if not report.checks:
        return "Nothing was compared"
    return "The sides agree" if report.passed else "The sides differ"


def reason(report: Report) -> str:
    """Return the one sentence that gives the reason for the verdict."""
    if not report.checks:
        return "No check was made, so nothing is shown to agree."
    found = failed(report.checks)
    total = count(len(report.checks), "check")
    heads = grouped(report.checks, lambda check: check.head)
    if not found:
        top = worst(report.checks)
        nearest = f"{top.name} of {top.head} ({top.kind})"
        if len(report.checks) == 1:
            return f"The one check passes: {nearest} takes {percent(top)} of its limit."
        number = count(len(heads), "head")
        return f"All {total} of {number} pass; the nearest to its limit is {nearest}, at {percent(top)}."
    begins = kinds_of(found)[0]
    bad = len(grouped(found, lambda check: check.head))
    where = f" in {bad} of {count(len(heads), 'head')}" if len(heads) > 1 else ""
    first = worst(check for check in found if check.kind == begins)
    if math.isfinite(first.distance):
        how = f"is {short(first.distance)} apart where {short(first.limit)} is allowed"
    else:
        how = f"has no finite distance ({remark(first) or short(first.distance)})"
    return f"{len(found):,} of {total} failed{where}, beginning with {begins}: {first.name} of {first.head} {how}."


def next_steps(report: Report) -> list[str]:
    """Return what to do about failures, in order; nothing if there are none."""
    found = failed(report.checks)
    if not report.checks:
        return ["Name at least one head and two sides that both have it."]
    if not found:
        return []
    begins = kinds_of(found)[0]
    steps = [ADVICE[begins]] if begins in ADVICE else []
    if report.places:
        steps.append("Compare the two lines of code at the first place: up to there both sides agree.")
    return steps


def rerun(report: Report) -> str:
    """Return the command that runs the report again; if something failed, only the head where it begins."""
    found = failed(report.checks)
    if not found:
        return command(report)
    begins = kinds_of(found)[0]
    head = next(check.head for check in report.checks if check.kind == begins and not check.passed)
    return command(report, heads=[head])


def command(report: Report, **changed: Any) -> str:
    """Return the command that runs the report again, with the options that it had or that are given."""
    options: Mapping[str, Any] = {**report.options, **changed}
    path, _, against = report.subject.partition(" against ")
    words = ["xlbridge", "parity"] + ([] if options.get("all") else [str(options.get("path", path))])
    for flag in FLAGS:
        value = options.get(flag) or (against if flag == "against" else None)
        if not value:
            continue
        words.append(f"--{flag}")
        if value is not True:
            words.append(",".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
    return clean(shlex.join(words))


def shell_lines(text: str, width: int) -> list[str]:
    """Return a command in lines that a shell takes as one, broken before options only."""
    first, *words = text.replace(" --", "\n--").split("\n")
    lines = [first]
    for word in words:
        if len(lines[-1]) + len(word) + 3 > width:
            lines[-1] += " \\"
            lines.append(f"  {word}")
        else:
            lines[-1] += f" {word}"
    return lines
