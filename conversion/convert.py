"""Any checkpoint in, any checkpoint out: tensor by tensor, whole or not at all, and proven."""

import hashlib
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from conversion.blocks import Rounding, Tensor, cast_into, sha256
from conversion.checkpoint import parse_size
from conversion.formats import FORMATS, keras_files
from conversion.formats.base import Entry
from conversion.inspect import described
from conversion.proof import CHECKSUMS, checksums, prove, read_checksums
from conversion.reading import room
from conversion.source import Source, folder_of, open_source
from conversion.staging import is_free, not_free, require_elsewhere, staged
from conversion.target import Target, origins_for
from conversion.watch import Watch
from conversion.writing import BATCH, Advance, Made, Piece, fingerprint, writable, write
from xlcore import __version__
from xlcore.config import Config
from xlcore.errors import FormatError, did_you_mean

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("float32"),
    "float16": np.dtype("float16"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

# Called with what is begun and the bytes that it takes in all; returns what is called with each number done.
Progress = Callable[[str, int], Advance]


def silent(what: str, total: int) -> Advance:
    """Tell nobody how far a conversion is."""
    return lambda count: None


@dataclass(frozen=True)
class Plan:
    """What a conversion will do; nothing has been written.

    Attributes:
        source: the opened checkpoint.
        watch: its files as they are, and those carried along.
        target: what will be written.
        destination: the folder that will hold it.
        carried: files that are copied as they are: vocabularies, settings of tokenizers.
        made: files that are made of what the source holds, by name.
        mark: a fingerprint of the result: of everything in it but the numbers.
    """

    source: Source
    watch: Watch
    target: Target
    destination: Path
    carried: list[Path]
    made: dict[str, bytes]
    mark: str

    @property
    def size(self) -> int:
        """The bytes of all tensors of the result."""
        return sum(entry.nbytes for entry in self.target.entries)

    @property
    def files(self) -> list[str]:
        """The names of all files of the result."""
        carried = [path.name for path in self.carried]
        return [*self.target.writer.files, *self.target.side, *carried, *self.made, CHECKSUMS]

    def to_dict(self) -> dict[str, Any]:
        """Return the whole plan as JSON can hold it."""
        target = self.target
        tensors = [
            {
                "name": entry.name,
                "shape": list(entry.shape),
                "dtype": str(entry.dtype),
                "from": list(target.parts[entry.name]),
                **_placed(target, entry.name),
            }
            for entry in target.entries
        ]
        result = {
            "path": str(self.destination),
            "format": target.format,
            "origin": target.origin.name,
            "bytes": self.size,
            "files": self.files,
            "carried": [path.name for path in self.carried],
            "made": list(self.made),
            "shared": dict(target.shared),
            "tensors": tensors,
        }
        return {"source": described(self.source), "result": result}

    def pieces(self) -> list[Piece]:
        """Return the tensors of the result, and how each is made."""
        return [Piece(entry, partial(self._make, entry), self._more(entry)) for entry in self.target.entries]

    def _more(self, entry: Entry) -> int:
        """Return the bytes that are read to make a tensor, unless they become the tensor themselves."""
        found = [self.source.entries[name] for name in self.target.parts[entry.name]]
        as_they_are = len(found) == 1 and found[0].dtype == entry.dtype
        return 0 if as_they_are else sum(each.nbytes for each in found)

    def _make(self, entry: Entry) -> Made:
        """Read what lies in one tensor of the result, cast it, and lay it as the file wants it."""
        parts = self.target.parts[entry.name]
        if not parts:
            return Made(self.target.lay(entry.name, None), {})
        found = {name: self.source.entries[name] for name in parts}
        if len(parts) == 1 and found[parts[0]].dtype == entry.dtype:
            array = self._read(parts[0])
            return Made(self.target.lay(entry.name, array), {parts[0]: array})
        joined, canonical = _room(list(found.values()), entry.dtype)
        roundings = {name: cast_into(canonical[name], self._read(name), name) for name in parts}
        return Made(self.target.lay(entry.name, joined), canonical, roundings)

    def _read(self, name: str) -> Tensor:
        try:
            return self.source.read(name)
        except OSError as error:
            raise FormatError(
                f"{self.source.path}: must be readable, got {error.strerror}; nothing was written"
            ) from error

    def checksums(self, digests: Mapping[str, str]) -> bytes:
        """Return the file that tells the SHA-256 of every canonical tensor as it is written."""
        kinds = {name: entry.dtype for entry in self.target.entries for name in self.target.parts[entry.name]}
        usual = self.target.entries[0].dtype
        entries = {
            name: Entry(name, entry.shape, kinds.get(name, usual)) for name, entry in self.source.entries.items()
        }
        return checksums(entries, digests, self.mark)

    def digests(self, written: Mapping[str, str]) -> dict[str, str]:
        """Add to the digests of what was written those of parameters that the origin leaves out of its files."""
        found = dict(written)
        for name in self.source.entries.keys() - written.keys():
            array = np.empty(self.source.entries[name].shape, self.target.entries[0].dtype)
            cast_into(array, self._read(name), name)
            found[name] = sha256(array)
        return found


def _placed(target: Target, name: str) -> dict[str, Any]:
    """Return where a tensor will lie, and where else, if the model comes in parts."""
    first, *others = (vars(target.writer.places[key]) for key in target.writer.pieces(name))
    return {**first, "parts": others} if others else {**first}


def _room(entries: list[Entry], dtype: np.dtype[Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return an array for tensors that lie one after the other along the first axis, and the part of it for each."""
    if len(entries) == 1:
        whole = _empty(entries[0].shape, dtype)
        return whole, {entries[0].name: whole}
    ends = np.cumsum([entry.shape[0] for entry in entries]).tolist()
    whole = _empty((ends[-1], *entries[0].shape[1:]), dtype)
    return whole, {entry.name: whole[end - entry.shape[0] : end] for entry, end in zip(entries, ends, strict=True)}


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
    made: Tensor = room(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)
    return made


# -------------------------------------------------------------------------------------------------------- planning


def plan(
    source: str | Path,
    destination: str | Path,
    *,
    to: str = "hf",
    dtype: str | None = None,
    max_shard_size: int | str = "5GB",
    parts: int = 1,
    head: str | None = None,
    config: Config | Mapping[str, Any] | None = None,
) -> Plan:
    """Find out what a checkpoint is and plan its conversion; nothing is written.

    Args:
        source: a folder, a file, or the prefix of a checkpoint.
        destination: the folder to be made.
        to: what to write: `"hf"`, `"torch"`, `"keras"`, or another of the family's origins or formats (`aims_for`).
        dtype: what numbers become; None for: as they are.
        max_shard_size: bytes a file, in formats that come in several.
        parts: into how many model-parallel parts fairseq's XLM-RoBERTa-XL is cut, each a file of its own.
        head: the model class, if it is to be another than the one that is found.
        config: a config to take as it is, or keys that win over what is found.

    Raises:
        XLError: if the source is not understood, or its model has no place in what is to be written.
    """
    max_bytes = parse_size(max_shard_size)
    if dtype is not None and dtype not in DTYPES:
        known = ", ".join(DTYPES)
        raise FormatError(f"convert: dtype must be one of {known}, got {dtype!r}{did_you_mean(dtype, DTYPES)}")
    if type(parts) is not int or parts < 1:
        raise FormatError(f"convert: parts must be a positive number, got {parts!r}")
    opened = open_source(source, config=config, head=head)
    opened.origin.fits(opened.file, opened.config, str(folder_of(opened.path)))
    aim = aim_of(to, opened.config.model_type)
    dtypes = {name: DTYPES[dtype] if dtype else entry.dtype for name, entry in opened.entries.items()}
    target = Target(
        aim.origin,
        opened.config,
        opened.head,
        dtypes,
        format=aim.format,
        max_bytes=max_bytes,
        name=aim.name,
        read=opened.read,
        file=opened.file,
        count=parts,
    )
    carried = [path for path in opened.carried if path.name not in target.side]
    watch = Watch([*opened.reader.files, *carried, *opened.renamed.values()])
    return Plan(opened, watch, target, Path(destination), carried, opened.made, _mark(target, carried, opened.made))


def _mark(target: Target, carried: Sequence[Path], made: Mapping[str, bytes]) -> str:
    tensors = [
        (entry.name, entry.shape, str(entry.dtype), target.parts[entry.name], _placed(target, entry.name))
        for entry in target.entries
    ]
    side = {name: content.decode() for name, content in target.side.items()}
    side |= {name: hashlib.sha256(content).hexdigest() for name, content in made.items()}
    for path in carried:
        with path.open("rb") as stream:
            side[path.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return fingerprint(__version__, target.origin.name, target.format, tensors, side, dict(target.shared))


class Aim(NamedTuple):
    """What to write: whose names and layouts, in which format, and in which file if not the usual one."""

    origin: str
    format: str
    name: str = ""


def aims_for(model_type: str) -> dict[str, Aim]:
    """Return what a family can be written as: by origin, by format, or by the file's name."""
    origins = origins_for(model_type)
    formats = {form: Aim(origin.name, form) for origin in reversed(origins.values()) for form in origin.formats}
    names = {FORMATS[form].weights: aim for form, aim in formats.items()}
    archive = {".keras": formats["keras"]._replace(name=keras_files.ARCHIVE)} if "keras" in formats else {}
    return {name: Aim(name, origin.formats[0]) for name, origin in origins.items()} | formats | names | archive


def aim_of(to: str, model_type: str) -> Aim:
    """Return what `--to` means.

    Raises:
        FormatError: if the family cannot be written so.
    """
    known = aims_for(model_type)
    if to not in known:
        listed = ", ".join(sorted(known))
        raise FormatError(
            f"convert: {model_type} must be written as one of {listed}, got {to!r}{did_you_mean(to, known)}"
        )
    return known[to]


# ------------------------------------------------------------------------------------------------------ carrying out


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    Attributes:
        plan: what was to be done.
        digests: SHA-256 of every canonical tensor.
        roundings: what casting did to each, where it was cast.
        resumed: bytes that an earlier run, killed, had written.
        left_behind: whether such a run's work was thrown away, because source or plan were others.
        verified: whether the result was read back and compared.
        stood: whether the destination held this very result before.
        seconds: how long it took.
    """

    plan: Plan
    digests: dict[str, str]
    roundings: dict[str, Rounding]
    resumed: int
    left_behind: bool
    verified: bool
    stood: bool
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plan and outcome as JSON can hold it."""
        done = {
            "verified": self.verified,
            "stood_already": self.stood,
            "resumed_bytes": self.resumed,
            "begun_anew": self.left_behind,
            "seconds": round(self.seconds, 3),
            "sha256": self.digests,
            "roundings": {name: vars(each) for name, each in self.roundings.items()},
        }
        return {**self.plan.to_dict(), "done": done}


def convert(planned: Plan, *, verify: bool = True, progress: Progress = silent, batch: int = BATCH) -> Report:
    """Carry a plan out: the destination appears whole, or not at all.

    If an earlier run was killed, this one goes on from there; the result is the same, bit by bit.

    Args:
        planned: what to do.
        verify: whether to read the result back and compare every tensor.
        progress: told how far it is.
        batch: after so many bytes the disk is made to hold them.

    Raises:
        FormatError: if the destination is not free or cannot be written, the source changes, or the result reads back
            otherwise.
        WeightError: if a number does not fit into the dtype, or is none.
    """
    began = time.monotonic()
    mark = fingerprint(planned.mark, planned.watch.facts)
    with staged(planned.destination) as staging:
        with writable(staging.destination, planned.size):
            free = is_free(planned.destination)
        if not free:
            return _standing(planned, began, progress)
        require_elsewhere(planned.destination)
        advance = progress("convert", planned.size)
        written = write(staging, planned.target.writer, planned.pieces(), mark, advance=advance, batch=batch)
        digests = planned.digests(written.sha256)
        planned.watch.require_unchanged()
        planned.source.forget()
        with writable(staging.destination, planned.size):
            _put_side(planned, staging.content, digests)
        if verify:
            prove(staging.content, staging.destination, planned.source, digests, progress("verify", planned.size))
        planned.watch.require_unchanged()
        with writable(staging.destination, planned.size):
            staging.finish()
    seconds = time.monotonic() - began
    return Report(planned, digests, written.roundings, written.resumed, written.left_behind, verify, False, seconds)


def _standing(planned: Plan, began: float, progress: Progress) -> Report:
    """Find out whether a destination that is not free holds what would be written: then it is as wanted."""
    mark, digests = read_checksums(planned.destination)
    if mark != planned.mark:
        raise not_free(planned.destination)
    advance = progress("compare", planned.size)
    found: dict[str, str] = {}
    roundings: dict[str, Rounding] = {}
    for piece in planned.pieces():
        made = piece.make()
        found.update({name: sha256(each) for name, each in made.canonical.items()})
        roundings.update(made.roundings)
        advance(piece.entry.nbytes)
    if planned.digests(found) != digests:
        raise not_free(planned.destination)
    planned.source.forget()
    prove(planned.destination, planned.destination, planned.source, digests, progress("verify", planned.size))
    return Report(planned, digests, roundings, 0, False, True, True, time.monotonic() - began)


def _put_side(planned: Plan, folder: Path, digests: Mapping[str, str]) -> None:
    """Write the small files beside the weights."""
    small = {**planned.target.side, **planned.made, CHECKSUMS: planned.checksums(digests)}
    for name, content in small.items():
        (folder / name).write_bytes(content)
    for path in planned.carried:
        shutil.copyfile(path, folder / path.name)
