"""What the verbs tell in a terminal, line by line."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from conversion.convert import Plan, Report
from conversion.diff import Compared, Difference
from conversion.inspect import bytes_by_dtype, described, rows
from conversion.source import Source
from conversion.tables import ascii_text, size, table, wrapped

_MOST = 20
_LABEL = 10
_WHOSE = {
    "hf": "HuggingFace's classes in PyTorch",
    "hf-tf": "HuggingFace's classes in TensorFlow",
    "keras": "our classes in Keras",
}


def _fact(label: str, text: object) -> list[str]:
    return wrapped(f"{label:<{_LABEL}}{ascii_text(text)}", hang=_LABEL)


def _listed(names: Iterable[object]) -> str:
    every = list(map(str, names))
    rest = f" and {len(every) - _MOST} more" if len(every) > _MOST else ""
    return ", ".join(every[:_MOST]) + rest


# ---------------------------------------------------------------------------------------------------------- sources


def source_lines(source: Source) -> Iterator[str]:
    """Yield what was found out of a source: whose it is, what it holds, what was derived, what became of tensors."""
    parameters = sum(entry.nbytes // entry.dtype.itemsize for entry in source.entries.values())
    held = ", ".join(f"{size(count)} in {dtype}" for dtype, count in bytes_by_dtype(source).items())
    whose = f", as of {_WHOSE[source.origin.name]}" if source.origin.name in _WHOSE else ", as of the authors' code"
    yield from _fact("source", source.path)
    yield from _fact("format", f"{source.format} ({source.origin.name}{whose})")
    yield from _fact("model", f"{source.head.name} ({source.config.model_type}), {parameters:,} parameters, {held}")
    yield from _fact("tensors", _fates(source))
    for note in source.notes:
        yield from _fact("note", note)
    for warning in source.warnings:
        yield from _fact("WARNING", warning)


def _fates(source: Source) -> str:
    """Return what becomes of the tensors; those that are ignored by reason, with their names."""
    fates = Counter(each.fate for each in source.accounts)
    counted = [f"{fates[fate]} {fate}" for fate in ("used", "split", "tied") if fates[fate]]
    reasons: dict[str, list[str]] = {}
    for each in source.accounts:
        if each.fate in ("ignored", "unexpected"):
            reasons.setdefault(f"{each.fate}, {each.reason}", []).append(each.name)
    rest = [f"{len(names)} {reason} ({names[0]}{', ...' * (len(names) > 1)})" for reason, names in reasons.items()]
    return f"{len(source.accounts)}: {'; '.join(counted + rest)}"


def _key(key: str, value: object, source: Source) -> str:
    return f"{key}={value!r}{'*' * (key in source.told)}"


def inspection_lines(source: Source, every: bool = False) -> Iterator[str]:
    """Yield what a checkpoint is.

    Args:
        source: the opened checkpoint.
        every: show every parameter, not one row for all layers that are alike.
    """
    known = described(source)
    yield from source_lines(source)
    yield from _fact("needs", ", ".join(f"{size(count)} to {what}" for what, count in known["needs"].items()))
    yield from _fact("tokenizer", _listed(known["tokenizer"]) or "no file of it lies here")
    yield from _fact("tied", _listed(f"{alias} = {name}" for alias, name in known["tied"].items()) or "nothing")
    yield from _fact("missing", _listed(known["missing"]) or "nothing")
    yield from _fact("config", ", ".join(_key(key, value, source) for key, value in known["config"].items()))
    if source.told:
        yield from _fact("", "* derived, see the notes")
    yield ""
    entries = source.entries.values()
    if every:
        yield from table(
            ("parameter", "shape", "dtype"), [(each.name, list(each.shape), each.dtype) for each in entries]
        )
        return
    alike = [(row.name, row.count, list(row.shape), row.dtype) for row in rows(entries)]
    yield from table(("parameter", "count", "shape", "dtype"), alike, "count")


# ------------------------------------------------------------------------------------------------------- conversions


def plan_lines(plan: Plan) -> Iterator[str]:
    """Yield the whole plan: what was found, every file, and every tensor of the result with what it is made of."""
    yield from summary_lines(plan)
    yield ""
    target = plan.target
    lines = [
        (
            each.name,
            list(each.shape),
            each.dtype,
            _listed(target.parts[each.name]) or "the config",
            _listed(target.writer.places[key].file for key in target.writer.pieces(each.name)),
        )
        for each in target.entries
    ]
    several = 4 + (len(target.writer.files) > 1)  # which file it is goes without saying where there is one
    yield from table(("tensor", "shape", "dtype", "from", "file")[:several], [line[:several] for line in lines])


def _result(plan: Plan) -> Iterator[str]:
    target = plan.target
    dtypes = _listed(sorted({str(entry.dtype) for entry in target.entries}))
    yield from _fact("result", plan.destination)
    yield from _fact(
        "format",
        f"{target.format} ({target.origin.name}), {len(target.entries)} tensors, {size(plan.size)} in {dtypes}",
    )
    yield from _fact("files", _listed(plan.files))
    if plan.carried:
        yield from _fact("carried", f"{_listed(path.name for path in plan.carried)}, as they are")
    if plan.made:
        yield from _fact("made", f"{_listed(plan.made)}, of what the source has for a tokenizer")


def summary_lines(plan: Plan) -> Iterator[str]:
    """Yield what was found, and what will be written."""
    yield from source_lines(plan.source)
    yield from _result(plan)


def report_lines(report: Report) -> Iterator[str]:
    """Yield what a conversion did."""
    plan = report.plan
    for note in _remarks(report):
        yield from _fact("note", note)
    rate = f"{size(plan.size / max(report.seconds, 1e-9))} a second"
    if report.stood:
        yield from wrapped(f"{ascii_text(plan.destination)} holds this very result already, every tensor compared.")
        return
    proof = f"every tensor read back and compared, {len(report.digests)} SHA-256 in checksums.json"
    done = f"{size(plan.size)} in {report.seconds:.1f} s, {rate}; {proof if report.verified else 'not read back'}."
    yield from wrapped(f"Written: {done}")


def _remarks(report: Report) -> Iterator[str]:
    if report.resumed:
        yield f"went on where an earlier run was stopped: {size(report.resumed)} were written"
    if report.left_behind:
        yield "an earlier run was stopped, but source or plan were others: begun anew"
    rounded = {name: each for name, each in report.roundings.items() if each.largest or each.lost}
    if rounded:
        name = max(rounded, key=lambda name: rounded[name].largest)
        lost = sum(each.lost for each in rounded.values())
        yield f"rounded: by {rounded[name].largest:.3g} at most, in {name}; {lost:,} numbers became 0"


# ------------------------------------------------------------------------------------------------------- differences


def difference_lines(difference: Difference) -> Iterator[str]:
    """Yield what two checkpoints differ in, and the verdict."""
    for letter, side in zip("AB", difference.sides, strict=True):
        yield from _fact(
            letter, f"{side.path}: {side.head.name}, {side.format} ({side.origin.name}), {len(side.entries)} parameters"
        )
        for each in side.accounts:
            if each.fate == "unexpected":
                yield from _fact("", f"{each.name} has no place: {each.reason}")
    for key, (one, other) in difference.config.items():
        yield from _fact("config", f"{key}: {one!r} in A, {other!r} in B")
    apart = [each for each in difference.tensors if each.state != "equal"]
    if apart:
        yield ""
        titles = ("parameter", "state", "A", "B", "largest", "steps", "share")
        yield from table(titles, map(_row, apart), "largest steps share")
    counts = Counter(each.state for each in difference.tensors)
    told = [f"{counts['equal']} of {len(difference.tensors)} parameters are equal bit by bit"]
    told += [f"{count} {state}" for state, count in counts.items() if state != "equal"]
    yield from ("", *wrapped(f"{', '.join(told)}; {_count_of(difference.config)}."))


def _row(each: Compared) -> tuple[Any, ...]:
    sides = [
        f"{dtype} {list(shape)}" if shape is not None else "-"
        for shape, dtype in zip(each.shapes, each.dtypes, strict=True)
    ]
    numbers = (
        (f"{each.largest:.3g}", f"{each.steps:,}", f"{each.share:.2%}") if each.state == "different" else ("", "", "")
    )
    return (each.name, each.state, *sides, *numbers)


def _count_of(config: dict[str, Any]) -> str:
    return f"{len(config)} keys of the config differ" if config else "the configs are equal"
