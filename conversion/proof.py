"""The proof of a conversion: the SHA-256 of every canonical tensor, and the result read back and held against it."""

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from conversion.blocks import sha256
from conversion.formats.base import Entry
from conversion.source import Source, open_source
from conversion.writing import ROOM, SMALL
from xlcore.errors import FormatError, XLError

CHECKSUMS = "checksums.json"
_HASHERS, _MOST = 2, 256
_ABOUT = "SHA-256 of each tensor under its canonical name: its bytes, little-endian, in C order"


def checksums(entries: Mapping[str, Entry], digests: Mapping[str, str], mark: str) -> bytes:
    """Return the file that lies beside the weights of a result.

    Args:
        entries: canonical name -> `Entry`.
        digests: canonical name -> SHA-256.
        mark: the fingerprint of the plan by which the result was made.
    """
    tensors = {
        name: {"dtype": str(entries[name].dtype), "shape": list(entries[name].shape), "sha256": digests[name]}
        for name in sorted(digests)
    }
    return (json.dumps({"about": _ABOUT, "plan": mark, "tensors": tensors}, indent=1) + "\n").encode()


def read_checksums(folder: Path) -> tuple[str, dict[str, str]]:
    """Return the mark of the plan by which a folder was made, and its digests; nothing for any other folder."""
    try:
        content = json.loads((folder / CHECKSUMS).read_bytes())
        return str(content["plan"]), {name: str(each["sha256"]) for name, each in content["tensors"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", {}


def prove(
    folder: Path, place: Path, source: Source, digests: Mapping[str, str], advance: Callable[[int], None]
) -> None:
    """Open a result as a user would, and hold config, head and every tensor against the source.

    Args:
        folder: the result.
        place: where it will stand, for messages.
        source: what it was made from.
        digests: canonical name -> SHA-256 of what was to be written.
        advance: called with each number of bytes that is read.

    Raises:
        FormatError: if anything reads back otherwise.
    """
    try:
        wrong = _wrong(open_source(folder, values=False), source, digests, advance)
    except XLError as error:
        wrong = f"an error: {error}"
    if wrong:
        raise FormatError(f"{place}: the result must read back as it was written, got {wrong}")


def _wrong(result: Source, source: Source, digests: Mapping[str, str], advance: Callable[[int], None]) -> str:
    """Return what is wrong with a result; nothing if all is as it must be."""
    if differing := _differences(result, source, digests):
        return ", ".join(differing)
    copies = result.copies
    for name, digest in _digests_of(result, [*digests, *copies]):
        first = copies.get(name, name)
        if digest != digests[first]:
            return f"other bytes in {name}; disk or memory may be at fault"
        advance(result.entries[first].nbytes)
    return ""


def _digests_of(result: Source, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the digest of each tensor; while two are hashed the next is read, if there is room for all."""
    sizes = {name: entry.nbytes for name, entry in result.entries.items()}
    sizes |= {name: sizes[first] for name, first in result.copies.items()}
    most = max([ROOM, *(2 * size for size in sizes.values())])
    waiting: deque[tuple[str, Future[str]]] = deque()
    with ThreadPoolExecutor(_HASHERS) as hashers:
        for name in names:
            while waiting and _is_enough([sizes[each] for each, _ in waiting], sizes[name], most):
                done, digest = waiting.popleft()
                yield done, digest.result()
            waiting.append((name, hashers.submit(sha256, result.read(name, finite=False))))
        for done, digest in waiting:
            yield done, digest.result()


def _is_enough(waiting: Sequence[int], size: int, most: int) -> bool:
    """Tell whether tensors of such sizes are enough to have in memory, with another one."""
    return sum(each > SMALL for each in waiting) > _HASHERS or sum(waiting) + size > most or len(waiting) > _MOST


def _differences(result: Source, source: Source, digests: Mapping[str, str]) -> list[str]:
    """Return what differs before any tensor is read."""
    if result.head is not source.head:
        return [f"{result.head.name} in place of {source.head.name}"]
    keys = [
        f"{key}={getattr(result.config, key)!r} in place of {getattr(source.config, key)!r}"
        for key in source.config.fields
        if getattr(result.config, key) != getattr(source.config, key)
    ]
    return keys + [f"no or an unknown {name}" for name in sorted(result.entries.keys() ^ digests.keys())]
