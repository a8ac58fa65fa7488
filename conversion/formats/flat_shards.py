"""What fairseq's fully sharded training saves: parameters in long runs, each run cut into as many shards as processes.

Which parameters a run holds, and how many numbers at the end of a shard only fill it up, fairscale tells in each file
under `fsdp_metadata` (`FullyShardedDataParallel.local_metadata_dict` of its release 0.4).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from conversion.formats import base, torch_files
from conversion.formats.base import Entry, Tensor
from xlcore.errors import FormatError
from xlcore.inert import Placeholder

TOLD = "fsdp_metadata"
_MOST_AXES = 64  # numpy's own bound

Shape = tuple[int, ...]


class _Run(NamedTuple):
    """A run as one file tells of it: the tensors in it, in order, and how many numbers fill up the file's shard."""

    held: dict[str, Shape]
    filling: int


class _Part(NamedTuple):
    """Where a tensor lies: in which run, from which number on."""

    run: str
    start: int
    shape: Shape


class Reader(base.Reader):
    """All tensors of a model in shards, joined; of each shard is read what a tensor has in it.

    Args:
        files: the shards, in their order.

    Raises:
        FormatError: if they are not the shards of one model, or do not tell what they hold.
    """

    format = "torch"

    def __init__(self, files: Sequence[Path]) -> None:
        self._shards = [torch_files.Reader(file) for file in files]
        runs = [_runs(shard) for shard in self._shards]
        first, self.files = self._shards[0], tuple(files)
        for shard, found in zip(self._shards, runs, strict=True):
            if set(shard) != set(first) or [(name, run.held) for name, run in found.items()] != [
                (name, run.held) for name, run in runs[0].items()
            ]:
                raise FormatError(f"{shard.files[0]}: a shard must hold the tensors of the first, got others")
        self._ends = {name: self._ends_of(name, [found[name] for found in runs]) for name in runs[0]}
        self._parts = _parts(runs[0], str(files[0]))
        ties = {**first.shared, **_ties(first)}
        self.shared = {name: kept for name, kept in ties.items() if kept in self._parts}
        self._parts |= {name: self._parts[kept] for name, kept in self.shared.items()}
        alone = [name for name in first if name not in runs[0] and name not in self._parts]
        if untold := [name for name in alone if name not in _listed(first, "buffer_names")]:
            raise FormatError(f"{files[0]}: {TOLD} must tell of every tensor, got {untold[0]!r} besides")
        self._tensors: dict[str, Entry] = {
            name: Entry(name, part.shape, first[part.run].dtype) for name, part in self._parts.items()
        } | {name: first[name] for name in alone}
        self.extras, self.aside = first.extras, first.aside
        self.notes = (*first.notes, f"joined {len(files)} shards of one model")

    def _ends_of(self, name: str, runs: Sequence[_Run]) -> list[int]:
        """Return for each shard the number of the run at which it ends, filling left out."""
        end, ends = 0, []
        for shard, run in zip(self._shards, runs, strict=True):
            if name not in shard:
                raise FormatError(f"{shard.files[0]}: {name!r} must be there, as {TOLD} tells, got a file without it")
            dtype, shape = shard[name].dtype, shard[name].shape
            if len(shape) != 1 or dtype != self._shards[0][name].dtype:
                what = f"{name!r} must be a run of numbers, of one dtype in all shards"
                raise FormatError(f"{shard.files[0]}: {what}, got {dtype} {list(shape)}")
            if not 0 <= run.filling <= shape[0]:
                what = f"the padding of {name!r} must be 0 to {shape[0]}"
                raise FormatError(f"{shard.files[0]}: {what}, got {run.filling}")
            end += shape[0] - run.filling
            ends.append(end)
        if end != (wanted := sum(map(math.prod, runs[0].held.values()))):
            raise FormatError(
                f"{self.files[-1]}: all shards must hold {wanted} numbers of {name!r}, got {end}; is a shard missing?"
            )
        return ends

    def __getitem__(self, name: str) -> Entry:
        return self._tensors[name]

    def read(self, name: str) -> Tensor:
        """Read one tensor, shard after shard."""
        if name not in self._parts:
            return self._shards[0].read(name)
        run, start, shape = self._parts[name]
        flat, begin = np.empty(math.prod(shape), self._tensors[name].dtype), 0
        for shard, end in zip(self._shards, self._ends[run], strict=True):
            low, high = max(start, begin), min(start + flat.size, end)
            if low < high:
                flat[low - start : high - start] = shard.read_run(run, low - begin, high - low)
            begin = end
        return flat.reshape(shape)


def _runs(shard: base.Reader) -> dict[str, _Run]:
    """Return what a file tells of its runs, by their names in it."""
    where, runs = str(shard.files[0]), {}
    for unit in _listed(shard, "param_metadata"):
        path = _get(unit, "fsdp_path", str, where)
        if unit.get("no_broadcast_optim_state"):
            raise FormatError(f"{where}: every shard must hold a part of the same parameters, got experts of its own")
        for name, told in _get(unit, "params", dict, where).items():
            names, shapes = _get(told, "names", list, where), _get(told, "shapes", list, where)
            if len(names) != len(shapes):
                what = f"{TOLD} must tell a shape for each of {len(names)} names in {name!r}"
                raise FormatError(f"{where}: {what}, got {len(shapes)}")
            held = {_joined(path, each): _shape(shape, where) for each, shape in zip(names, shapes, strict=True)}
            runs[_joined(path, name)] = _Run(held, _get(told, "padding", int, where))
    return runs


def _parts(runs: Mapping[str, _Run], where: str) -> dict[str, _Part]:
    """Return where each tensor lies."""
    parts: dict[str, _Part] = {}
    for run, (held, _) in runs.items():
        start = 0
        for name, shape in held.items():
            if name in parts:
                raise FormatError(f"{where}: {name!r} must lie in one run, got it in {parts[name].run!r}, too")
            parts[name] = _Part(run, start, shape)
            start += math.prod(shape)
    return parts


def _ties(shard: base.Reader) -> dict[str, str]:
    """Return the names of tensors that are others': the second name -> the first."""
    where, ties = str(shard.files[0]), {}
    for unit in _listed(shard, "param_metadata"):
        for pair in _get(unit, "shared_param_info", list, where):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise FormatError(f"{where}: {TOLD} must tell shared tensors in pairs, got {pair!r:.60}")
            kept, name = (_joined(unit["fsdp_path"], each) for each in pair)
            ties[name] = kept
    return ties


def _listed(shard: base.Reader, key: str) -> list[Any]:
    where = str(shard.files[0])
    found: list[Any] = _get(shard.extras.get(TOLD), key, list, where)
    return found


def _get(held: Any, key: str, kind: type, where: str) -> Any:
    value = held.get(key) if isinstance(held, dict) else None
    if not isinstance(value, kind):
        what = f"{TOLD} must tell {key!r}, as fairscale 0.4 does, got {type(value).__name__}"
        raise FormatError(f"{where}: {what}; join the shards by its consolidate_shard_weights")
    return value


def _joined(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def _shape(value: Any, where: str) -> Shape:
    """Return a `torch.Size` as a file holds it."""
    held = value.args[0] if isinstance(value, Placeholder) and len(value.args) == 1 else value
    if not isinstance(held, tuple | list) or not all(isinstance(size, int) and size >= 0 for size in held):
        raise FormatError(f"{where}: {TOLD} must tell shapes, got {held!r:.60}")
    if len(held) > _MOST_AXES or math.prod(size for size in held if size) >= 1 << 59:
        raise FormatError(f"{where}: {TOLD} must tell shapes that memory can hold, got {list(held)!r:.60}")
    return tuple(held)
