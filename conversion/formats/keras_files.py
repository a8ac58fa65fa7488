"""Keras 3: `.weights.h5`, its form in shards with a `.weights.json`, and the `.keras` archive; read without Keras."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from conversion.formats import base
from conversion.formats.base import Entry, Place, Tensor, lay, put, refuse_shared
from conversion.formats.h5_plan import Plan
from conversion.formats.h5_process import Dataset, list_all, list_h5
from conversion.formats.hdf5 import KINDS
from conversion.formats.sharding import seen
from conversion.formats.zips import Member, Zip, crc32, opened
from xlcore.config import read_json_object
from xlcore.errors import ConfigError, FormatError

WEIGHTS = "model.weights.h5"
INDEX = "model.weights.json"
ARCHIVE = "model.keras"
_H5, _JSON, _KERAS = SUFFIXES = (".weights.h5", ".weights.json", ".keras")
_BF16 = np.dtype(ml_dtypes.bfloat16)
_ASIDE = "optimizer/"
_LARGEST_TEXT = 64 << 20
_VERSION = {"keras_version": "3.10.0", "date_saved": "1980-01-01@00:00:00"}  # of no day: the same bytes on every day


class Reader(base.Reader):
    """All variables of a Keras model, by their paths in the file: `blocks/block_1/attention/query/vars/0`.

    `aside` lists the optimizer's; `extras` holds `config` and `metadata` of an archive.

    Args:
        path: a `.weights.h5`, a `.weights.json` beside its shards, a `.keras`, or a folder with one of them.

    Raises:
        FormatError: for a missing shard, a damaged file, a file that leads elsewhere, or a dtype that is no number.
    """

    format = "keras"

    def __init__(self, path: Path) -> None:
        file = _find(Path(path))
        self.extras = {}
        if _begins_as_zip(file):
            self.files: tuple[Path, ...] = (file,)
            found = self._open_archive(file)
        elif file.name.endswith(_JSON):
            shards = _shards(file)
            self.files = (file, *shards)
            found = _merged(shards)
        else:
            self.files = (file,)
            found = list_h5(file).datasets
        self._tensors: dict[str, Dataset] = {name: each for name, each in found.items() if not name.startswith(_ASIDE)}
        self.aside = {name: each.entry for name, each in found.items() if name.startswith(_ASIDE)}

    def _open_archive(self, file: Path) -> dict[str, Dataset]:
        with opened(file) as archive:
            self.extras = {key: _json_in(archive, file, f"{key}.json") for key in ("config", "metadata")}
            start, size = _stored(archive, file)
        return list_h5(file, start, size).datasets

    def __getitem__(self, name: str) -> Entry:
        return self._tensors[name].entry

    def read(self, name: str) -> Tensor:
        """Read one variable."""
        return self._tensors[name].read()


def _begins_as_zip(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(4) == b"PK\3\4"


def _find(path: Path) -> Path:
    """Return the one Keras file that a path means."""
    if path.is_file():
        return path
    known = [path / name for name in (WEIGHTS, INDEX, ARCHIVE) if (path / name).is_file()]
    files = sorted(path.iterdir()) if path.is_dir() else []
    indexes = [file for file in files if file.name.endswith(_JSON)]
    found = known[:1] or indexes or [file for file in files if file.name.endswith((_H5, _KERAS))]
    if len(found) > 1:
        listed = ", ".join(each.name for each in found[:8])
        raise FormatError(f"{path}: must hold one checkpoint, got {listed}; give the path of one")
    if not found:
        raise FormatError(f"{path}: must hold {WEIGHTS}, {INDEX} or {ARCHIVE}, got {seen(path)}")
    return found[0]


def _shards(index: Path) -> list[Path]:
    """Return the files that a sharded form names."""
    try:
        weight_map = read_json_object(index).get("weight_map")
    except ConfigError as error:
        raise FormatError(str(error)) from error
    listed = weight_map.values() if isinstance(weight_map, dict) else [None]
    names: list[Any] = [name for each in listed for name in (each if isinstance(each, list) else [each])]
    if not all(isinstance(name, str) for name in names) or not names:
        raise FormatError(f"{index}: weight_map must map groups to files, got another value")
    if outside := [name for name in names if Path(name).name != name or "\0" in name]:
        raise FormatError(f"{index}: weight_map must name files of the same folder, got {outside[0]!r}")
    return [index.parent / name for name in sorted(set(names))]


def _merged(files: Sequence[Path]) -> dict[str, Dataset]:
    found: dict[str, Dataset] = {}
    for file, listing in list_all(files).items():
        for name, dataset in listing.datasets.items():
            if name in found:
                raise FormatError(f"{file}: {name!r} must lie in one file, got it in {found[name].file.name}, too")
            found[name] = dataset
    return found


def _json_in(archive: zipfile.ZipFile, file: Path, name: str) -> Any:
    """Return the content of a JSON file in an archive, None if there is none."""
    if name not in archive.namelist():
        return None
    if archive.getinfo(name).file_size > _LARGEST_TEXT:
        raise FormatError(f"{file}: {name} must have at most {_LARGEST_TEXT} bytes, got more")
    return json.loads(archive.read(name))


def _stored(archive: zipfile.ZipFile, file: Path) -> tuple[int, int]:
    """Return where the weights lie in an archive, and their size."""
    if WEIGHTS not in archive.namelist():
        raise FormatError(f"{file}: must hold {WEIGHTS}, got {', '.join(archive.namelist()[:8]) or 'nothing'}")
    info = archive.getinfo(WEIGHTS)
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise FormatError(f"{file}: {WEIGHTS} must be stored as it is, got it packed; unpack the archive")
    with file.open("rb") as stream:
        stream.seek(info.header_offset)
        head = stream.read(30)
    if head[:4] != b"PK\3\4":
        raise FormatError(f"{file}: {WEIGHTS} must lie in the archive, got another thing at byte {info.header_offset}")
    start = info.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
    if start + info.file_size > file.stat().st_size:
        raise FormatError(f"{file}: {WEIGHTS} must lie in the archive, got a claim of {info.file_size} bytes")
    return start, info.file_size


# ------------------------------------------------------------------------------------------------------- writing


class Writer(base.Writer):
    """The plan of a `.weights.h5`, of shards with a `.weights.json`, or of a `.keras`; see `base.Writer`.

    Entries are called by their paths in the file. A name that ends in `.keras` makes an archive, which has no shards
    and needs the model's `config` among the `extras`, as Keras' `serialize_keras_object` gives it.

    Raises:
        FormatError: for a dtype that the format does not know, or an archive without a config.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        max_bytes: int = 0,
        extras: Mapping[str, Any] | None = None,
        shared: Mapping[str, str] | None = None,
        name: str = "",
    ) -> None:
        refuse_shared("keras", shared)
        for entry in entries:
            if entry.dtype not in KINDS and entry.dtype != _BF16:
                known = "float64, float32, float16, bfloat16, bool or a whole number"
                raise FormatError(f"keras: {entry.name!r} must have dtype {known}, got {entry.dtype}")
        self._name = name or WEIGHTS
        self._texts: dict[str, str] = {}
        if self._name.endswith(_KERAS):
            self._plan_archive(entries, extras or {})
        else:
            self._plan_files(entries, max_bytes)
        self.files = (*self._plans, *self._texts)

    def _plan_files(self, entries: Sequence[Entry], max_bytes: int) -> None:
        dealt = _dealt(entries, max_bytes)
        stem = self._name.removesuffix(_H5)
        names = [self._name] if len(dealt) == 1 else [f"{stem}_{number:05d}{_H5}" for number in range(len(dealt))]
        self._plans = {file: _plan(shard) for file, shard in zip(names, dealt, strict=True)}
        self.places = {
            path: Place(file, start) for file, plan in self._plans.items() for path, start in plan.starts.items()
        }
        if len(dealt) > 1:
            groups = {f"/{_group(path)}": place.file for path, place in self.places.items()}
            index = {"metadata": {"total_size": sum(entry.nbytes for entry in entries)}, "weight_map": groups}
            self._texts = {stem + _JSON: json.dumps(index, indent=4)}

    def _plan_archive(self, entries: Sequence[Entry], extras: Mapping[str, Any]) -> None:
        if not isinstance(extras.get("config"), dict):
            raise FormatError("keras: extras must have the model's config for an archive, got none")
        plan = _plan(entries)
        texts = {"metadata.json": extras.get("metadata") or _VERSION, "config.json": extras["config"]}
        contents = {name: json.dumps(value).encode() for name, value in texts.items()}
        members = [Member(name, len(content), content) for name, content in contents.items()]
        self._zip = Zip([*members, Member(WEIGHTS, plan.size, None, 64)])
        self._plans = {self._name: plan}
        first = self._zip.starts[WEIGHTS]
        self.places = {path: Place(self._name, first + start) for path, start in plan.starts.items()}
        self.sum = crc32

    def begin(self, folder: Path) -> None:
        """Make the files, with everything but the variables."""
        for file, plan in self._plans.items():
            if self.sum:
                first = self._zip.starts[WEIGHTS]
                held = ((first + at, piece) for at, piece in plan.pieces())
                lay(folder / file, self._zip.size, [*held, *self._zip.pieces({})])
            else:
                lay(folder / file, plan.size, plan.pieces())
        for file, text in self._texts.items():
            (folder / file).write_text(text, encoding="utf-8")

    def end(self, folder: Path, sums: Mapping[str, int]) -> None:
        """Write the checksum of the weights into an archive."""
        if self.sum:
            (plan,) = self._plans.values()
            with (folder / self._name).open("rb+") as stream:
                put(stream, self._zip.pieces({WEIGHTS: plan.crc32(sums)}))


def _plan(entries: Sequence[Entry]) -> Plan:
    marks = {entry.name: {"dtype": "bfloat16"} for entry in entries if entry.dtype == _BF16}
    return Plan(lambda file: None, {entry.name: entry for entry in entries}, marks)


def _group(path: str) -> str:
    return path.rpartition("/")[0]


def _dealt(entries: Sequence[Entry], max_bytes: int) -> list[list[Entry]]:
    """Deal variables out to files of at most `max_bytes`, those of one layer to one file."""
    layers: dict[str, list[Entry]] = {}
    for entry in entries:
        layers.setdefault(_group(entry.name), []).append(entry)
    dealt: list[list[Entry]] = [[]]
    room = max_bytes
    for layer in layers.values():
        size = sum(entry.nbytes for entry in layer)
        if max_bytes and dealt[-1] and size > room:
            dealt.append([])
            room = max_bytes
        dealt[-1] += layer
        room -= size
    return dealt
