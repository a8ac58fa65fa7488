"""HDF5 as transformers' TensorFlow side wrote it: `tf_model.h5`, whole or in shards; read without TensorFlow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from conversion.formats import base
from conversion.formats.base import Entry, Place, Tensor, lay, refuse_shared
from conversion.formats.h5_plan import Plan
from conversion.formats.h5_process import Dataset, list_all
from conversion.formats.sharding import SUFFIX, find, index_text, read_index, shard_names, shards
from xlcore.errors import FormatError

WEIGHTS = "tf_model.h5"
SUFFIXES = (".h5", ".hdf5")
SKIPPED = r".*\.weights\.h5$"  # another layout, see `keras_files`
_LONGEST = 64512  # bytes that HDF5 keeps in one attribute, as Keras counts
_TOP = "top_level_model_weights"
KINDS = {np.dtype(kind) for kind in "f8 f4 f2 i8 i4 i2 i1 u8 u4 u2 u1 ?".split()}


class Reader(base.Reader):
    """All tensors of a `tf_model.h5` or its shards, by their paths in it, in the order that the file names them in.

    A path is layer, model, layer once more, and so on: `transformer/tf_model/transformer/word_emb/...:0`. In shards
    transformers leaves the first two parts out. `extras` holds the attributes `backend` and `keras_version`, and
    `layer_names`.

    Args:
        path: a file, an index, or a folder with `tf_model.h5`, its index, or one file of another name.

    Raises:
        FormatError: for a missing shard, a damaged file, a file that leads elsewhere, an index that names what is not
            there, or a dtype that is no number.
    """

    format = "hdf5"

    def __init__(self, path: Path) -> None:
        self._tensors: dict[str, Dataset] = {}
        found, is_index = find(Path(path), WEIGHTS, SUFFIXES, SKIPPED)
        listed = dict(read_index(found)) if is_index else {found: []}
        self.files = (*([found] if is_index else []), *listed)
        layers: list[str] = []
        for file, listing in list_all([*listed]).items():
            _take(self._tensors, listing.datasets, [_in_shard(name) for name in listed[file]], file)
            self.extras = {**self.extras, **listing.attributes}
            layers += [layer for layer in listing.layers if layer not in listing.datasets]
        self.extras = {**self.extras, **({"layer_names": layers} if layers else {})}

    def __getitem__(self, name: str) -> Entry:
        return self._tensors[name].entry

    def read(self, name: str) -> Tensor:
        """Read one tensor."""
        return self._tensors[name].read()


def _take(all_of: dict[str, Dataset], found: Mapping[str, Dataset], names: Sequence[str], file: Path) -> None:
    """Add the tensors of one shard, among which those that the index names must be."""
    if lacking := [name for name in names if name not in found]:
        raise FormatError(f"{file}: must hold {lacking[0]!r}, as its index says, got a file without it")
    if twice := [name for name in found if name in all_of]:
        raise FormatError(f"{file}: {twice[0]!r} must lie in one file, got it in {all_of[twice[0]].file.name}, too")
    all_of.update(found)


def _in_shard(name: str) -> str:
    """Return the path of a weight in a shard: its own name without the model's, as transformers does it."""
    return name if "model." in name or "/" not in name else name.partition("/")[2]


# ------------------------------------------------------------------------------------------------------- writing


class Writer(base.Writer):
    """The plan of a `tf_model.h5`, or of shards with an index; see `base.Writer`.

    Entries are called as a reader of a whole file calls them, in shards too. Two that have the same path in the
    shards, a tied tensor and its copy, lie in one place there.

    Raises:
        FormatError: for a dtype that HDF5 does not know (bfloat16, float8), or a name without its layer.
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
        refuse_shared("hdf5", shared)
        for entry in entries:
            if entry.dtype not in KINDS:
                known = "float64, float32, float16, bool or a whole number"
                raise FormatError(f"hdf5: {entry.name!r} must have dtype {known}, got {entry.dtype}")
            if entry.name.count("/") < 1:
                raise FormatError(
                    f"hdf5: {entry.name!r} must name its layer, as in layer/model/layer/weight:0, got none"
                )
        told = {"backend": "tensorflow", "keras_version": "2.15.0", **(extras or {})}
        name = name or WEIGHTS
        self._plans: dict[str, Plan] = {}
        self.places: dict[str, Place] = {}
        self._index_text = ""
        if len(shards(entries, max_bytes)) > 1:
            self._plan_shards(entries, max_bytes, name)
        else:
            plan = Plan(lambda file: _describe(file, entries, told), {entry.name: entry for entry in entries})
            self._plans = {name: plan}
            self.places = {entry.name: Place(name, plan.starts[entry.name]) for entry in entries}
        self._index = name + SUFFIX
        self.files = (*self._plans, *([self._index] if self._index_text else []))

    def _plan_shards(self, entries: Sequence[Entry], max_bytes: int, name: str) -> None:
        """Plan shards, in which every weight stands once and under its path without layer and model."""
        paths = {entry.name: _in_shard(entry.name.partition("/")[2]) for entry in entries}
        unique = {paths[entry.name]: entry for entry in reversed(entries)}
        dealt = shards([entry for entry in entries if unique[paths[entry.name]] is entry], max_bytes)
        weight_map: dict[str, str] = {}
        where: dict[str, Place] = {}
        for file, shard in zip(shard_names(name, len(dealt)), dealt, strict=True):
            held = {paths[entry.name]: entry for entry in shard}
            plan = Plan(lambda made, held=held: _name(made, "layer_names", sorted(held)), held)  # type: ignore[misc]
            self._plans[file] = plan
            where |= {path: Place(file, plan.starts[path]) for path in held}
            weight_map |= {entry.name.partition("/")[2]: file for entry in shard}
        self.places = {each: where[path] for each, path in paths.items()}
        self._index_text = index_text(list(unique.values()), weight_map)

    def begin(self, folder: Path) -> None:
        """Make the files, with everything but the tensors."""
        for file, plan in self._plans.items():
            lay(folder / file, plan.size, plan.pieces())
        if self._index_text:
            (folder / self._index).write_text(self._index_text, encoding="utf-8")

    def end(self, folder: Path, sums: Mapping[str, int]) -> None:
        """Write nothing: all was known before."""


def _describe(file: h5py.File, entries: Sequence[Entry], extras: Mapping[str, Any]) -> None:
    """Write the attributes by which Keras finds layers and their weights."""
    weights: dict[str, list[str]] = {layer: [] for layer in extras.get("layer_names", [])}
    for entry in entries:
        layer, _, weight = entry.name.partition("/")
        weights.setdefault(layer, []).append(weight)
    top = weights.pop(_TOP, [])
    for key in ("backend", "keras_version"):
        file.attrs[key] = str(extras[key])
    _name(file, "layer_names", list(weights))
    for layer, names in {**weights, _TOP: top}.items():
        _name(file.require_group(layer), "weight_names", names)


def _name(group: h5py.Group, key: str, names: Sequence[str]) -> None:
    """Write a list of names as an attribute, or as several where HDF5 cannot hold it in one, as Keras does."""
    listed = [name.encode() for name in names]
    array = np.asarray(listed)
    count = 1
    while any(part.nbytes > _LONGEST for part in np.array_split(array, count)):
        count += 1
    if count == 1:
        group.attrs[key] = listed
        return
    for number, part in enumerate(np.array_split(array, count)):
        group.attrs[f"{key}{number}"] = part
