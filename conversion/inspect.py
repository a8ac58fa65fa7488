"""What a checkpoint is, told from names, shapes and what lies beside: no tensor is read."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conversion.formats.base import Entry
from conversion.source import Source, open_source
from xlcore.config import Config

# Bytes a parameter, of weights, gradients and the two averages that Adam keeps.
_NEEDS = {
    "load in float32": 4,
    "load in bfloat16 or float16": 2,
    "train with Adam in float32": 4 + 4 + 8,
    "train with Adam in bfloat16, weights kept in float32": 2 + 4 + 2 + 8,
}


@dataclass(frozen=True)
class Row:
    """Parameters of one shape and dtype whose names differ in the number of their layer only."""

    name: str
    count: int
    shape: tuple[int, ...]
    dtype: str


def inspect(path: str | Path, *, config: Config | Mapping[str, Any] | None = None, head: str | None = None) -> Source:
    """Open a checkpoint without reading a tensor, whether it is whole or not; the arguments are `open_source`'s."""
    return open_source(path, config=config, head=head, values=False, whole=False)


def described(source: Source) -> dict[str, Any]:
    """Return all that is known of a checkpoint, as JSON can hold it."""
    family, config = source.family, source.config
    parameters = sum(math.prod(entry.shape) for entry in source.entries.values())
    return {
        "path": str(source.path),
        "format": source.format,
        "origin": source.origin.name,
        "files": {path.name: path.stat().st_size for path in source.reader.files},
        "family": config.model_type,
        "head": source.head.name,
        "config": config.to_dict(),
        "config_from": dict(source.told),
        "notes": list(source.notes),
        "warnings": list(source.warnings),
        "parameters": parameters,
        "bytes": bytes_by_dtype(source),
        "needs": {what: parameters * count for what, count in _NEEDS.items()},
        "tokenizer": [path.name for path in (*source.carried, *source.renamed.values())],
        "tied": dict(family.ties_within(config, source.head)),
        "missing": missing(source),
        "shapes": {name: [str(entry.dtype), list(entry.shape)] for name, entry in source.entries.items()},
        "accounts": [
            {
                "name": each.name,
                "shape": list(each.entry.shape),
                "dtype": str(each.entry.dtype),
                "fate": each.fate,
                "into": list(each.into),
                "reason": each.reason,
            }
            for each in source.accounts
        ],
    }


def missing(source: Source) -> list[str]:
    """Return the parameters for which a checkpoint has no tensor, or one of another shape."""
    return [name for name in source.family.params(source.config, source.head) if name not in source.entries]


def bytes_by_dtype(source: Source) -> dict[str, int]:
    """Return the bytes of the tensors of a file, by dtype; what lies under two names counts once."""
    found: dict[str, int] = {}
    for name in source.reader:
        entry = source.reader[name]
        if name not in source.reader.shared:
            found[str(entry.dtype)] = found.get(str(entry.dtype), 0) + entry.nbytes
    return found


def rows(entries: Iterable[Entry]) -> list[Row]:
    """Return one row for all layers that are alike: `blocks.{0-17}.attention.query.weight`."""
    groups: dict[tuple[str, tuple[int, ...], str], list[list[int]]] = {}
    for entry in entries:
        numbers = [int(number) for number in re.findall(r"\d+", entry.name)]
        groups.setdefault((re.sub(r"\d+", "{}", entry.name), entry.shape, str(entry.dtype)), []).append(numbers)
    return [
        Row(pattern.format(*map(_span, zip(*numbers, strict=True))), len(numbers), shape, dtype)
        for (pattern, shape, dtype), numbers in groups.items()
    ]


def _span(numbers: Iterable[int]) -> str:
    """Return numbers as people write them: 3, {0-17}, {0,2,4}."""
    found = sorted(set(numbers))
    if len(found) == 1:
        return str(found[0])
    if found == list(range(found[0], found[-1] + 1)):
        return f"{{{found[0]}-{found[-1]}}}"
    return "{" + ",".join(map(str, found)) + "}"
