"""The one door through which models load and save, in canonical names.

What is saved is a folder with `config.json` and `model.safetensors` (or shards with an index) under HuggingFace's
names, so that both frameworks and transformers open it. What is loaded may be any checkpoint that `conversion.source`
opens.
"""

import math
import re
import warnings
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from conversion import reading
from conversion.fit import Fit, LoadingInfo
from conversion.folder import replaced
from conversion.formats import find_format, open_reader, safetensors
from conversion.formats.base import Reader, Tensor
from conversion.source import find_origin, folder_of, listing, open_fit, read_side
from conversion.target import Target, origins_for
from xlcore.config import Config, read_json_object
from xlcore.errors import FormatError, WeightError
from xlcore.families import config_from_dict
from xlcore.heads import Head
from xlcore.origin import Origin

__all__ = ["Checkpoint", "LoadingInfo", "parse_size", "read_config", "save"]

COMPUTED = ("bfloat16", "float16", "float32", "float64")  # what models compute in


def read_config(path: str | Path, **overrides: Any) -> Config:
    """Read the config of a checkpoint, whichever family it is of: from config.json, or else from what tells of it.

    Raises:
        FormatError: if there is neither a config.json nor a checkpoint.
        ConfigError: if what is there makes no config.
    """
    path = Path(path)
    file = folder_of(path) / "config.json"
    if not file.is_file():
        _require_weights(path)
        return open_fit(path, overrides)[2]
    config = config_from_dict(read_json_object(file), str(file), **overrides)
    return open_fit(path, overrides)[2] if _may_be_untied(path, config) else config


def _require_weights(path: Path) -> None:
    if not path.is_file() and find_format(path) is None:
        what = "a folder without it" if path.is_dir() else "no such folder"
        raise FormatError(f"{path}: must be a folder that holds config.json, got {what}")


def _may_be_untied(path: Path, config: Config) -> bool:
    """Tell whether the tensors may contradict the config: some origins tie nothing, whatever the config says."""
    origins = origins_for(config.model_type).values()
    try:
        if find_format(path) not in {form for origin in origins if origin.unties for form in origin.formats}:
            return False
        return _origin_of(path, open_reader(path), config).unties
    except FormatError:
        return False  # damaged weights, as who opens them is told


def _origin_of(path: Path, reader: Reader, config: Config) -> Origin:
    try:
        return find_origin(path, reader, read_side(path), config.model_type)[0]
    except WeightError:
        return origins_for(config.model_type)["hf"]


class Checkpoint:
    """A checkpoint, opened for one model; tensors come one at a time, in canonical names.

    Args:
        path: the folder, or a file.
        config: the config of the model.
        head: the model's head.
    """

    def __init__(self, path: str | Path, config: Config, head: Head) -> None:
        self.path = Path(path)
        self._head = head
        reader = open_reader(self.path)
        self._fit = Fit(self.path, reader, _origin_of(self.path, reader, config), config, head)
        self.info: LoadingInfo = self._fit.info

    @property
    def names(self) -> set[str]:
        """The canonical names of the parameters that `tensors` yields."""
        return {*self._fit.chosen, *self._fit.filled}

    @property
    def dtype(self) -> str:
        """The dtype in which the file holds the model.

        Raises:
            WeightError: for one in which no model computes.
        """
        name = self._fit.dtype.name
        if name not in COMPUTED:
            what = f"dtype must be given for a file of {name}, which no model computes in"
            raise WeightError(f"{self.path}: {what}, got 'auto'")
        return name

    def mapped(self, dtype: str) -> dict[str, Tensor]:
        """Map every parameter that lies in the file as it is in a model of that dtype, by canonical name.

        Nothing is read before it is touched, so NaN is not found; what is changed stays in memory.
        """
        names = [name for name in self._fit.chosen if self._fit.dtype_of(name).name == dtype]
        found = {name: self._fit.mapped(name) for name in names}
        return {name: array for name, array in found.items() if array is not None}

    def tensors(self, but: Container[str] = ()) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter that the file has, by canonical name, holding one tensor of the file at a time.

        The largest come first, when there is least beside them.

        Args:
            but: names to leave out.

        Raises:
            WeightError: if a tensor holds NaN or infinity.
        """
        sizes = {name: math.prod(self._fit.params[name].shape) for name in (*self._fit.chosen, *self._fit.filled)}
        size = 0
        for name in sorted((name for name in sizes if name not in but), key=lambda name: -sizes[name]):
            value = self._fit.read(name)
            for other, used in self._fit.differing(name):
                _tell(f"{self.path}: {other!r} must equal {used!r}, its tied copy, got other values; used {used!r}")
            yield name, value
            if sizes[name] < size:
                reading.let_go()  # memory of larger ones would stay unused beside all that is still to come
            size = sizes[name]

    def settle(self, *, strict: bool = True, ignore_mismatched_sizes: bool = False) -> None:
        """Raise what is wrong with the fit of file and model, or warn of it where the caller asked for that.

        Raises:
            WeightError: names every missing, unexpected or mismatched tensor.
        """
        info, where = self.info, f"{self.path}: tensors must fit {self._head.name}"
        if info.new_head_keys:
            keys = listing(info.new_head_keys)
            _tell(f"{where}: the file lacks its head; newly initialised, train before use: {keys}")
        mismatched = [f"{name} {list(theirs)} for {list(ours)}" for name, theirs, ours in info.mismatched_keys]
        if mismatched and not ignore_mismatched_sizes:
            hint = "pass ignore_mismatched_sizes=True to initialise them anew"
            raise WeightError(f"{where}, got other shapes: {listing(mismatched)}; {hint}")
        wrong = [
            f"{what}: {listing(names)}"
            for what, names in (("missing", info.missing_keys), ("unexpected", info.unexpected_keys))
            if names
        ]
        if wrong and strict:
            raise WeightError(f"{where}, got {'; '.join(wrong)}; pass strict=False to load the rest")
        if wrong or mismatched:
            _tell(f"{where}, got {'; '.join(wrong + mismatched)}; missing ones are newly initialised")


def _tell(message: str) -> None:
    warnings.warn(message, stacklevel=4)


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
    *,
    write: bool = True,
) -> None:
    """Write a canonical folder; it appears whole, or the old one stays as it was.

    Args:
        path: the folder; files in it that are no weights of ours stay.
        config: written as config.json, with the head's class and the dtype in it.
        head: the model's head.
        read: from canonical names to functions that return the array; each is called once, one at a time.
        dtypes: from canonical names to what is written.
        max_shard_size: bytes a file, as a number or `"5GB"`.
        write: if off, only call the functions, in the same order: what the other processes that hold a part of each
            array do while one writes.

    Raises:
        WeightError: for parameters that are no floating point numbers, whose scales the folder has no place for.
    """
    max_bytes = parse_size(max_shard_size)
    for name, dtype in dtypes.items():
        if dtype.kind in "iub":
            what = "parameters must be floating point numbers to be saved"
            raise WeightError(f"{path}: {what}, got {name!r} as {dtype}; save the model before it is quantised")
    target = Target("hf", config, head, dtypes)
    readers = {
        entry.name: lambda name=entry.name: target.make(name, lambda part: read[part]()) for entry in target.entries
    }
    if not write:
        for entry in target.entries:
            target.make(entry.name, lambda part: read[part]())
        return
    with replaced(Path(path), drop=lambda name: bool(safetensors.OURS.fullmatch(name))) as folder:
        (folder / "config.json").write_bytes(target.side["config.json"])
        safetensors.write(folder, target.entries, readers, max_bytes)
