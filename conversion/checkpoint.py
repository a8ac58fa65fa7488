"""The one door through which models load and save: canonical folders, in canonical names.

A folder is `config.json` and `model.safetensors` (or shards with an index) under HuggingFace's names, so that both
frameworks and transformers open it.
"""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from conversion.folder import replaced
from conversion.formats import safetensors
from xlcore.config import Config, read_json_object
from xlcore.errors import FormatError, WeightError
from xlcore.families import config_from_dict, family_of
from xlcore.heads import Head
from xlcore.maps import HF
from xlcore.params import Params
from xlcore.weightmap import to_ours, to_theirs

Tensor = np.ndarray[Any, Any]


def read_config(path: str | Path, **overrides: Any) -> Config:
    """Read the config of a folder, whichever family it is of.

    Raises:
        FormatError: if there is no such folder, or no config.json in it.
        ConfigError: if its content makes no config.
    """
    file = Path(path) / "config.json"
    if not file.is_file():
        what = "a folder without it" if Path(path).is_dir() else "no such folder"
        raise FormatError(f"{path}: must be a folder that holds config.json, got {what}")
    return config_from_dict(read_json_object(file), str(file), **overrides)


@dataclass
class LoadingInfo:
    """What a file lacked, had too much, or had in another shape, by the names in the file.

    Attributes:
        missing_keys: needed by the model, not in the file.
        unexpected_keys: in the file, of no use to the model or to any model of its family.
        mismatched_keys: name, shape in the file, shape in the model.
        other_head_keys: in the file, for a head that this model does not have.
        new_head_keys: the whole head of this model, where the file was saved without it.
    """

    missing_keys: list[str] = field(default_factory=list)
    unexpected_keys: list[str] = field(default_factory=list)
    mismatched_keys: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    other_head_keys: list[str] = field(default_factory=list)
    new_head_keys: list[str] = field(default_factory=list)


class Checkpoint:
    """A canonical folder, opened for one model; tensors come one at a time, in canonical names.

    Args:
        path: the folder.
        config: the config of the model.
        head: the model's head.
    """

    def __init__(self, path: str | Path, config: Config, head: Head) -> None:
        self.path = Path(path)
        self.info = LoadingInfo()
        family = family_of(config)
        self._head = head
        self._map = HF[config.model_type]
        self._params = family.params(config, head)
        self._ties = family.ties_within(config, head)
        table = {**self._params, **{alias: self._params[name] for alias, name in self._ties.items()}}
        self._sizes = config.sizes
        self._places, self._shapes = self._map.places(table), self._map.shapes(table, self._sizes)
        self._reader = safetensors.Reader(self.path)
        self._files = {self._full(name): name for name in self._reader}
        self._chosen = self._choose(head.params(config))
        self._account_for_the_rest()

    @property
    def names(self) -> set[str]:
        """The canonical names of the parameters that `tensors` yields."""
        return set(self._chosen)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter that the file has, by canonical name, holding one tensor of the file at a time.

        Raises:
            WeightError: if a tensor holds NaN or infinity.
        """
        held: tuple[str, Tensor] | None = None
        for name, copies in self._chosen.items():
            foreign = self._places[copies[-1]].name
            if held is None or held[0] != foreign:
                held = foreign, self._read(foreign)
            for other in copies[:-1]:
                self._compare(self._places[other].name, *held)
            place = self._places[copies[-1]]
            whole = to_ours(held[1], place.layout, self._sizes)
            yield name, whole[place.start : place.stop].reshape(self._params[name].shape)

    def settle(self, *, strict: bool = True, ignore_mismatched_sizes: bool = False) -> None:
        """Raise what is wrong with the fit of file and model, or warn of it where the caller asked for that.

        Raises:
            WeightError: names every missing, unexpected or mismatched tensor.
        """
        info, where = self.info, f"{self.path}: tensors must fit {self._head.name}"
        if info.new_head_keys:
            keys = _listing(info.new_head_keys)
            _tell(f"{where}: the file lacks its head; newly initialised, train before use: {keys}")
        mismatched = [f"{name} {list(theirs)} for {list(ours)}" for name, theirs, ours in info.mismatched_keys]
        if mismatched and not ignore_mismatched_sizes:
            hint = "pass ignore_mismatched_sizes=True to initialise them anew"
            raise WeightError(f"{where}, got other shapes: {_listing(mismatched)}; {hint}")
        wrong = [
            f"{what}: {_listing(names)}"
            for what, names in (("missing", info.missing_keys), ("unexpected", info.unexpected_keys))
            if names
        ]
        if wrong and strict:
            raise WeightError(f"{where}, got {'; '.join(wrong)}; pass strict=False to load the rest")
        if wrong or mismatched:
            _tell(f"{where}, got {'; '.join(wrong + mismatched)}; missing ones are newly initialised")

    def _full(self, name: str) -> str:
        try:
            return self._map.full_name(name)
        except WeightError:
            return name

    def _choose(self, own: Params) -> dict[str, list[str]]:
        """Find for every parameter the names under which the file holds it; the last counts, as in transformers."""
        chosen = {}
        for name in self._params:
            names = [name, *(alias for alias, first in self._ties.items() if first == name)]
            present = [each for each in names if self._places[each].name in self._files]
            if present and self._fits(self._places[present[-1]].name):
                chosen[name] = present
            elif not present:
                self.info.missing_keys.append(self._places[name].name)
        head_keys = {self._places[name].name for name in own}
        if head_keys and head_keys <= set(self.info.missing_keys):
            self.info.new_head_keys = [key for key in self.info.missing_keys if key in head_keys]
            self.info.missing_keys = [key for key in self.info.missing_keys if key not in head_keys]
        self.info.missing_keys = list(dict.fromkeys(self.info.missing_keys))
        return chosen

    def _fits(self, foreign: str) -> bool:
        theirs = self._reader[self._files[foreign]].shape
        ours = self._shapes[foreign]
        if theirs != ours and (foreign, theirs, ours) not in self.info.mismatched_keys:
            self.info.mismatched_keys.append((foreign, theirs, ours))
        return theirs == ours

    def _account_for_the_rest(self) -> None:
        """Sort every tensor that the model does not use into those for another head and those for nothing."""
        parts = {name.split(".")[0] for name in self._places}
        used = {place.name for place in self._places.values()}
        for full, name in self._files.items():
            if full in used:
                continue
            ours = self._map.ours(full) if self._map.knows(full) else (full,)
            another_head = not full.startswith(self._map.prefix) and self._map.knows(full)
            if another_head and ours[0].split(".")[0] not in parts:
                self.info.other_head_keys.append(name)
            elif ours:
                self.info.unexpected_keys.append(name)

    def _read(self, foreign: str) -> Tensor:
        array = self._reader.read(self._files[foreign])
        if array.dtype.kind not in "iub" and not np.isfinite(array).all():
            raise WeightError(f"{self.path}: {self._files[foreign]!r} must be finite, got NaN or infinity in it")
        return array

    def _compare(self, other: str, foreign: str, array: Tensor) -> None:
        if not np.array_equal(self._read(other), array):
            _tell(f"{self.path}: {other!r} must equal {foreign!r}, its tied copy, got other values; used {foreign!r}")


def _tell(message: str) -> None:
    warnings.warn(message, stacklevel=4)


def _listing(names: list[str], most: int = 12) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


# -------------------------------------------------------------------------------------------------------- saving


def parse_size(size: int | str) -> int:
    """Turn `"5GB"`, `"200MB"` or a number of bytes into bytes (powers of ten, as the hub counts).

    Raises:
        FormatError: for anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", str(size).strip().upper())
    number = float(match[1]) * 1000 ** " KMGT".index(match[2] or " ") if match else 0
    if number < 1:
        raise FormatError(f"max_shard_size: must be a size such as '5GB' or a positive number of bytes, got {size!r}")
    return int(number)


def save(
    path: str | Path,
    config: Config,
    head: Head,
    read: Mapping[str, Callable[[], Tensor]],
    dtypes: Mapping[str, np.dtype[Any]],
    max_shard_size: int | str = "5GB",
) -> None:
    """Write a canonical folder; it appears whole, or the old one stays as it was.

    Args:
        path: the folder; files in it that are no weights of ours stay.
        config: written as config.json, with the head's class and the dtype in it.
        head: the model's head.
        read: from canonical names to functions that return the array; each is called once, one at a time.
        dtypes: from canonical names to what is written.
        max_shard_size: bytes a file, as a number or `"5GB"`.
    """
    max_bytes = parse_size(max_shard_size)
    weights = HF[config.model_type]
    params = family_of(config).params(config, head)
    weights.prove(params)
    strip = weights.prefix if head.kind == "base" else ""
    places, shapes = weights.places(params), weights.shapes(params, config.sizes)
    parts: dict[str, list[str]] = {}
    for name in sorted(places, key=lambda name: places[name].start):
        parts.setdefault(places[name].name, []).append(name)
    entries, readers = [], {}
    for foreign in shapes:
        name = foreign.removeprefix(strip)
        entries.append(safetensors.Entry(name, shapes[foreign], dtypes[parts[foreign][0]]))
        layout = places[parts[foreign][0]].layout
        readers[name] = _joined([read[part] for part in parts[foreign]], layout, config.sizes)
    written = config.copy(architectures=[head.name], torch_dtype=str(entries[0].dtype))
    with replaced(Path(path), drop=lambda name: bool(safetensors.OURS.fullmatch(name))) as folder:
        written.to_json_file(folder / "config.json")
        safetensors.write(folder, entries, readers, max_bytes)


def _joined(readers: list[Callable[[], Tensor]], layout: str, sizes: Mapping[str, int]) -> Callable[[], Tensor]:
    def read() -> Tensor:
        arrays = [reader() for reader in readers]
        joined: Tensor = to_theirs(arrays[0] if len(arrays) == 1 else np.concatenate(arrays), layout, sizes)
        return joined

    return read
