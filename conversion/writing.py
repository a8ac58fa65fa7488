"""The engine that fills the places of a writer, one tensor at a time, and goes on where it was killed."""

import errno
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from conversion.blocks import Rounding, Tensor, blocks, sha256
from conversion.folder import beside
from conversion.formats.base import Entry, Place, Writer
from conversion.journal import Record
from conversion.places import Places
from conversion.staging import Staging
from conversion.tables import size
from xlcore.errors import FormatError

BATCH = 256 << 20  # bytes after which the disk is made to hold what was written
SMALL = 1 << 20  # bytes; tensors up to that are no work, and however many wait they take no room
_WRITERS, _MOST = 2, 256  # large tensors that are written at a time, and all that may wait
ROOM = 128 << 20  # bytes of tensors that may be in memory however small the largest is

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Made:
    """One tensor of a result.

    Attributes:
        data: as it lies in the file, in layout and dtype; a view will do.
        canonical: the canonical tensors in it, in the same dtype.
        roundings: what casting did to each.
    """

    data: Tensor
    canonical: Mapping[str, Tensor]
    roundings: Mapping[str, Rounding] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """One tensor of a result that is still to be made, how, and the bytes that this takes beside its own."""

    entry: Entry
    make: Callable[[], Made]
    more: int = 0

    @property
    def needs(self) -> int:
        """The bytes of memory that it takes while it is made."""
        return self.entry.nbytes + self.more


@dataclass(frozen=True)
class Written:
    """What is known of a result that lies in its staging folder.

    Attributes:
        sums: of each tensor, or each piece that it lies in, the checksum that its format wants.
        sha256: of each canonical tensor.
        roundings: what casting did to each canonical tensor.
        resumed: bytes that an earlier, killed run had written.
        left_behind: whether such a run's work could not be used, because source or plan were others.
    """

    sums: dict[str, int]
    sha256: dict[str, str]
    roundings: dict[str, Rounding]
    resumed: int
    left_behind: bool


def fingerprint(*facts: Any) -> str:
    """Return one number for facts that JSON can hold: the same if and only if they are the same."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def write(
    staging: Staging,
    writer: Writer,
    pieces: Sequence[Piece],
    mark: str,
    *,
    advance: Advance = lambda count: None,
    batch: int = BATCH,
) -> Written:
    """Write every tensor into its place in a staging folder; those that are there already are left as they are.

    Args:
        staging: where to.
        writer: the plan of the files.
        pieces: the tensors of the plan, in any order.
        mark: a fingerprint of source and plan; work of an earlier run under another mark is thrown away.
        advance: called with each number of bytes that is done.
        batch: after so many bytes the disk is made to hold them, and the journal says so.

    Raises:
        FormatError: if the disk is full, or writing fails otherwise.
    """
    with writable(staging.destination, sum(piece.entry.nbytes for piece in pieces)):
        left_behind = _prepare(staging, writer, mark)
        done = {record["tensor"]: record for record in staging.journal.records if "tensor" in record}
        resumed = sum(piece.entry.nbytes for piece in pieces if piece.entry.name in done)
        advance(resumed)
        _fill(staging, writer, [piece for piece in pieces if piece.entry.name not in done], advance, batch)
        found = _gathered(staging.journal.records, resumed, left_behind)
        writer.end(staging.content, found.sums)
    return found


def _prepare(staging: Staging, writer: Writer, mark: str) -> bool:
    """Lay the files down unless they lie there; tell whether work of another mark was thrown away."""
    records = staging.journal.records
    if (
        len(records) > 1
        and records[0] == {"mark": mark}
        and records[1]["begun"].items() <= _sizes(staging.content).items()
    ):
        return False
    left_behind = any("tensor" in record for record in records)
    staging.clear()
    writer.begin(staging.content)
    for name in writer.files:
        _reserve(staging.content / name)
    staging.journal.add([{"mark": mark}, {"begun": _sizes(staging.content)}])
    return left_behind


def _sizes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def _reserve(file: Path) -> None:
    """Have the disk set room aside for the whole file, so that a full disk is met before the work, not after it."""
    with file.open("rb+") as stream:
        size = os.fstat(stream.fileno()).st_size
        try:
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(stream.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # not every file system can
                raise
        os.fsync(stream.fileno())


def _fill(staging: Staging, writer: Writer, pieces: Sequence[Piece], advance: Advance, batch: int) -> None:
    """Write tensors in the order of their places; while one is written the next is made, if there is room for both."""
    room = max([ROOM, *(2 * piece.entry.nbytes for piece in pieces)])
    with _Hand(staging, writer, advance, batch) as hand:
        for piece in sorted(pieces, key=lambda piece: _order(writer.places[piece.entry.name])):
            while hand.holds and hand.holds + piece.needs > room:
                hand.wait()
            made = piece.make()
            if (made.data.shape, made.data.dtype) != (piece.entry.shape, piece.entry.dtype):
                wanted, got = (f"{each.dtype} {list(each.shape)}" for each in (piece.entry, made.data))
                raise FormatError(f"{piece.entry.name}: must be as planned, {wanted}, got {got}")
            hand.put(piece, made)
            del made


def _order(place: Place) -> tuple[str, int]:
    return place.file, place.offset


class _Hand:
    """Writes and hashes some tensors at a time, beside whoever makes the next."""

    def __init__(self, staging: Staging, writer: Writer, advance: Advance, batch: int) -> None:
        self._writer, self._advance = writer, advance
        self._keeper = _Keeper(staging, batch)
        self._places = [Places(staging.content) for _ in range(_WRITERS)]
        self._free = list(self._places)
        self._writers, self._hashers = ThreadPoolExecutor(_WRITERS), ThreadPoolExecutor(_WRITERS)
        self._running: deque[tuple[Piece, Future[Record]]] = deque()
        self._hashed = {name for record in staging.journal.records for name in record.get("sha256", ())}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        go_on = kind is None or not issubclass(kind, Exception)  # whoever is interrupted can go on from here
        try:
            while go_on and self._running:
                self.wait()
        finally:
            self._writers.shutdown()
            self._hashers.shutdown()
            for places in self._places:
                places.close()
            self._keeper.close(go_on)

    @property
    def holds(self) -> int:
        """The bytes that the tensors take which are being written."""
        return sum(piece.needs for piece, _ in self._running)

    def put(self, piece: Piece, made: Made) -> None:
        """Begin to write a tensor, once one of those before is written."""
        while sum(running.needs > SMALL for running, _ in self._running) >= _WRITERS or len(self._running) >= _MOST:
            self.wait()
        self._running.append((piece, self._writers.submit(self._write, piece.entry.name, made)))

    def wait(self) -> None:
        """Wait until the tensor is written that was put first, and have it noted."""
        piece, running = self._running.popleft()
        record = running.result()
        self._keeper.add([self._writer.places[key].file for key in record["sums"]], piece.entry.nbytes, record)

    def _write(self, name: str, made: Made) -> Record:
        places, pieces = self._free.pop(), self._writer.pieces(name)
        new = {each: array for each, array in made.canonical.items() if each not in self._hashed}
        self._hashed |= new.keys()
        alike = [each for each, array in new.items() if len(pieces) == 1 and _is_same(array, made.data)]
        others = self._hashers.submit(lambda: {each: sha256(new[each]) for each in new if each not in alike})
        total = _Total(self._writer.sum, self._advance, made.data.nbytes, self._hashers if alike else None)
        sums: dict[str, int] = {}
        try:
            for key, index in pieces.items():
                place, data = self._writer.places[key], made.data[index]
                places.write(place.file, place.offset, data.nbytes, total.counted(blocks(data)))
                sums[key] = total.sum
        finally:
            self._free.append(places)
        digests = others.result() | dict.fromkeys(alike, total.sha256)
        roundings = {each: [found.largest, found.lost] for each, found in made.roundings.items()}
        return {"tensor": name, "sums": sums, "sha256": digests, "roundings": roundings}


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Tell whether two arrays are one: the same numbers in the same order in the same place."""
    facts = [(each.ctypes.data, each.shape, each.strides, each.dtype) for each in (one, other)]
    return facts[0] == facts[1]


class _Total:
    """Adds up what is wanted of a tensor's bytes while they are written, and says how far that is.

    What is written of a tensor beyond its size, in files that each have it whole, is no step forward.
    """

    def __init__(
        self, add: Callable[[Any, int], int] | None, advance: Advance, size: int, hasher: Executor | None
    ) -> None:
        self._add, self._advance, self._left, self._hasher, self.sum = add, advance, size, hasher, 0
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """The SHA-256 of all blocks, if there is someone to compute it."""
        return self._digest.hexdigest()

    def counted(self, found: Iterable[memoryview]) -> Iterator[memoryview]:
        """Yield the blocks of a piece, each hashed while it is written; it is counted when the next is asked for."""
        self.sum = 0
        for block in found:
            hashed = self._hasher.submit(self._digest.update, block) if self._hasher else None
            self.sum = self._add(block, self.sum) if self._add else 0
            yield block
            if hashed:
                hashed.result()
            forward = min(len(block), self._left)
            self._left -= forward
            self._advance(forward)


class _Keeper:
    """Has the disk hold what is written and says so in the journal, in that order, while writing goes on.

    What was written and is not in the journal is written anew after a kill.
    """

    def __init__(self, staging: Staging, batch: int) -> None:
        self._journal, self._folder, self._batch = staging.journal, staging.content, batch
        self._thread = ThreadPoolExecutor(1)
        self._running: Future[None] | None = None
        self._files: set[Path] = set()
        self._records: list[Record] = []
        self._waiting = 0

    def close(self, keep: bool) -> None:
        """End; what waits is kept or not."""
        try:
            if keep:
                self._keep()
                self._wait()
        finally:
            self._thread.shutdown()

    def add(self, files: Iterable[str], count: int, record: Record) -> None:
        """Note a tensor that is written."""
        self._files |= {self._folder / file for file in files}
        self._records.append(record)
        self._waiting += count
        if self._waiting >= self._batch:
            self._keep()

    def _keep(self) -> None:
        self._wait()
        self._running = self._thread.submit(self._write_down, self._files, self._records)
        self._files, self._records, self._waiting = set(), [], 0

    def _wait(self) -> None:
        if self._running:
            self._running.result()

    def _write_down(self, files: set[Path], records: list[Record]) -> None:
        for file in files:
            flush(file)
        self._journal.add(records)


@contextmanager
def writable(destination: Path, needed: int) -> Iterator[None]:
    """Turn what goes wrong in writing a destination, for which so many bytes are needed, into one clear error."""
    free = shutil.disk_usage(beside(destination)).free
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = f"the disk must have room for {size(needed)}, got {size(free)}"
        else:
            what = f"must be writable, got {error.strerror or error}"
        raise FormatError(f"{destination}: {what}; nothing was written") from error


def flush(file: Path) -> None:
    """Have the disk hold a file's data."""
    handle = os.open(file, os.O_RDONLY)
    try:
        getattr(os, "fdatasync", os.fsync)(handle)
    finally:
        os.close(handle)


def _gathered(records: Sequence[Record], resumed: int, left_behind: bool) -> Written:
    tensors = [record for record in records if "tensor" in record]
    return Written(
        sums={key: found for record in tensors for key, found in record["sums"].items()},
        sha256={name: digest for record in tensors for name, digest in record["sha256"].items()},
        roundings={name: Rounding(*pair) for record in tensors for name, pair in record["roundings"].items()},
        resumed=resumed,
        left_behind=left_behind,
    )
