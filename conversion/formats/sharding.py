"""Checkpoints in several files: how tensors are dealt out, and the index that tells where each lies."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from conversion.formats.base import Entry
from xlcore.config import read_json_object
from xlcore.errors import ConfigError, FormatError

SUFFIX = ".index.json"


def shards(entries: Iterable[Entry], max_bytes: int) -> list[list[Entry]]:
    """Deal tensors out to files of at most `max_bytes`, in order; a tensor larger than that has a file of its own.

    No limit if `max_bytes` is 0.
    """
    dealt: list[list[Entry]] = [[]]
    room = max_bytes
    for entry in entries:
        if max_bytes and dealt[-1] and entry.nbytes > room:
            dealt.append([])
            room = max_bytes
        dealt[-1].append(entry)
        room -= entry.nbytes
    return dealt


def shard_names(name: str, count: int) -> list[str]:
    """Return the names of `count` files: `model.bin` alone, or `model-00001-of-00002.bin` and so on."""
    stem, dot, suffix = name.rpartition(".")
    return [name] if count == 1 else [f"{stem}-{k:05d}-of-{count:05d}{dot}{suffix}" for k in range(1, count + 1)]


def index_text(entries: Sequence[Entry], weight_map: Mapping[str, str]) -> str:
    """Return the content of an index."""
    index = {"metadata": {"total_size": sum(entry.nbytes for entry in entries)}, "weight_map": dict(weight_map)}
    return json.dumps(index, indent=2) + "\n"


def read_index(index: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each file that an index names, with the tensors that it should hold.

    Raises:
        FormatError: if the file is no index, or names a file of another folder.
    """
    try:
        weight_map = read_json_object(index).get("weight_map")
    except ConfigError as error:
        raise FormatError(str(error)) from error
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise FormatError(f"{index}: weight_map must map tensors to files, got {type(weight_map).__name__}")
    files: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        files.setdefault(file, []).append(name)
    for file in sorted(files):
        if Path(file).name != file or "\0" in file:
            raise FormatError(f"{index}: weight_map must name files of the same folder, got {file!r}")
        yield index.parent / file, files[file]


def find(path: Path, name: str, suffixes: Sequence[str], skipped: str = "(?!)") -> tuple[Path, bool]:
    """Return the one file of a format that a path means, and whether it is an index.

    Args:
        path: a file, or a folder that holds `name`, its index, or else one file or index with one of the suffixes.
        skipped: pattern of names that are no weights of the format though their suffix fits.

    Raises:
        FormatError: if a folder holds none, or several and none under the usual name.
    """
    if path.is_file():
        return path, path.name.endswith(SUFFIX)
    if (path / name).is_file():
        return path / name, False
    if (path / (name + SUFFIX)).is_file():
        return path / (name + SUFFIX), True
    indexes, files = _fitting(path, suffixes, skipped) if path.is_dir() else ([], [])
    found = indexes or files
    if len(found) > 1:
        listed = ", ".join(each.name for each in found[:8])
        raise FormatError(f"{path}: must hold one checkpoint, got {listed}; give the path of one")
    if not found:
        raise FormatError(f"{path}: must hold {name} or {name}{SUFFIX}, got {seen(path)}")
    return found[0], bool(indexes)


def _fitting(folder: Path, suffixes: Sequence[str], skipped: str) -> tuple[list[Path], list[Path]]:
    """Return the indexes and the files of a folder that have one of the suffixes."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not re.match(skipped, path.name)]
    indexes = [path for path in files if path.name.endswith(tuple(suffix + SUFFIX for suffix in suffixes))]
    return indexes, [path for path in files if path.name.endswith(tuple(suffixes))]


def seen(folder: Path) -> str:
    """Return what lies in a folder, in a few words."""
    if not folder.is_dir():
        return "a file" if folder.exists() else "no such folder"
    return ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "an empty folder"
