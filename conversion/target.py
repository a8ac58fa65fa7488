"""Any origin's layout to be written: which tensors its files hold, how each is made of ours, and what lies beside."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from conversion.formats import FORMATS, model_parts
from conversion.formats.base import Entry, Tensor, Writer
from xlcore.config import Config
from xlcore.errors import ConfigError, did_you_mean
from xlcore.families import family_of
from xlcore.heads import Head
from xlcore.maps import ORIGINS
from xlcore.origin import Origin
from xlcore.weightmap import WeightMap

Read = Callable[[str], Tensor]


def origins_for(model_type: str) -> dict[str, Origin]:
    """Return the origins of a family by name."""
    return {origin.name: origin for origin in ORIGINS if origin.model_type == model_type}


class Target:
    """The plan of a checkpoint of one origin.

    Args:
        origin: whose layout, or its name.
        config: of the model.
        head: of the model.
        dtypes: what is written, or for each canonical name what is.
        format: the file format; the origin's usual one if not given.
        max_bytes: the size beyond which a further file is begun; 0 for no limit. Authors' torch files come whole.
        name: the file, where it is not to be the origin's usual one.
        read: reads a parameter: with it, what the origin leaves out where it has one certain value is left out.
        file: reads a file of the tokenizer's that will lie beside, for origins that keep a vocabulary in their own.
        count: into how many parts, each a file of its own, the model is cut: 1 for a whole one.

    Attributes:
        entries: the tensors of the files, in order.
        parts: for every entry the canonical names that lie in it, in order; none where its value follows from others.
        shared: second names of tied tensors, in formats whose tensors can have two.
        side: the files that lie beside the weights, by name.

    Raises:
        ConfigError: if the origin has no way to hold such a model, or does not come in the format.
    """

    def __init__(
        self,
        origin: Origin | str,
        config: Config,
        head: Head,
        dtypes: "np.dtype[Any] | Mapping[str, np.dtype[Any]]",
        *,
        format: str | None = None,
        max_bytes: int = 0,
        name: str = "",
        read: Read | None = None,
        file: Callable[[str], bytes | None] = lambda name: None,
        count: int = 1,
    ) -> None:
        self.origin = origin = _origin(origin, config)
        self.format = _format(origin, format)
        self.config, self.head, self.name = config, head, name or origin.file
        self.max_bytes = 0 if self.format == "torch" and origin.file else max_bytes  # the authors' code opens one file
        self._file, self._count = file, _count(origin, count)
        origin.check(config, head)
        weights = origin.weights(config, head)
        params, ties = _table(origin, config, head, self.format)
        spared = _spared(origin, config, head, weights, read) if read else set()
        params = {name: param for name, param in params.items() if name not in spared}
        weights.prove(params)
        table = {**params, **{alias: params[first] for alias, first in ties.items() if first in params}}
        recipes = weights.recipes(table, config.sizes)
        names = origin.written(recipes, config, head)
        self._recipes = {names[name]: recipe for name, recipe in recipes.items()}
        self.parts = {
            name: tuple(ties.get(part, part) for part in recipe.parts) for name, recipe in self._recipes.items()
        }
        self.shared = dict(self._shared(ties)) if self.format == "torch" else {}
        kinds = dtypes if isinstance(dtypes, Mapping) else dict.fromkeys(params, dtypes)
        self.entries = [
            Entry(name, recipe.shape, np.dtype(kinds[self.parts[name][0]]))
            for name, recipe in self._recipes.items()
            if name not in self.shared
        ]
        self._constants = self._add_constants()
        self._kinds = {entry.name: entry.dtype for entry in self.entries}
        self.side = {name: _json(keys) for name, keys in origin.side(config, head).items()}
        self._written = config.copy(architectures=[head.name], torch_dtype=str(self.entries[0].dtype))
        self.side["config.json"] = self._written.to_json_string().encode()
        self.side |= origin.files(config, head, file)

    def _shared(self, ties: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Yield the names of copies with the name of the tensor that they are one with."""
        firsts = {parts: name for name, parts in reversed(self.parts.items()) if self._recipes[name].parts == parts}
        for name, recipe in self._recipes.items():
            if any(part in ties for part in recipe.parts):
                yield name, firsts[self.parts[name]]

    def _add_constants(self) -> dict[str, Tensor]:
        kind = self.entries[0].dtype
        constants = self.origin.constants(self.config, self.head)
        names = self.origin.written(constants, self.config, self.head)
        found = {names[name]: array.astype(kind) for name, array in constants.items()}
        self.entries += [Entry(name, array.shape, array.dtype) for name, array in found.items()]
        self.parts |= dict.fromkeys(found, ())
        return found

    def lay(self, name: str, joined: Tensor | None) -> Tensor:
        """Bring what lies in an entry, its parts joined along their first axis, into the layout of the file.

        The result is a view where it can be. Where an entry has no parts its value is returned.

        Raises:
            WeightError: if the origin has one tensor for parts that differ.
        """
        if joined is None:
            return self._constants[name]
        laid: Tensor = self._recipes[name].lay(joined, self.config.sizes)
        return laid

    def make(self, name: str, read: Read) -> Tensor:
        """Make an entry of canonical parameters, in its dtype."""
        arrays = [read(part) for part in self.parts[name]]
        kind = self.dtype_of(name)
        if not arrays:
            return self.lay(name, None)
        joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        return self.lay(name, joined.astype(kind, copy=False))

    def dtype_of(self, name: str) -> np.dtype[Any]:
        """Return the dtype in which an entry is written."""
        return self._kinds[name]

    @cached_property
    def writer(self) -> Writer:
        """The plan of the files themselves."""
        extras = self.origin.extras(self._written, self.head, self._file)
        if self.origin.parted and self._count > 1:
            extras = self.origin.parted(self._written, extras, self._count)
            return model_parts.Writer(
                self.entries, extras=extras, shared=self.shared, name=self.name, parts=self._count
            )
        make = FORMATS[self.format].writer
        return make(self.entries, max_bytes=self.max_bytes, extras=extras, shared=self.shared, name=self.name)


def _origin(origin: Origin | str, config: Config) -> Origin:
    if isinstance(origin, Origin):
        return origin
    known = origins_for(config.model_type)
    if origin not in known:
        choices = ", ".join(map(repr, known))
        raise ConfigError(f"Target: origin must be one of {choices}, got {origin!r}{did_you_mean(origin, known)}")
    return known[origin]


def _format(origin: Origin, format: str | None) -> str:
    if format is not None and format not in origin.formats:
        raise ConfigError(
            f"Target: the format of {origin.name} must be one of {', '.join(origin.formats)}, got {format!r}"
        )
    return format or origin.formats[0]


def _count(origin: Origin, count: int) -> int:
    if count > 1 and not origin.parted:
        known = ", ".join(f"{each.name} of {each.model_type}" for each in ORIGINS if each.parted)
        raise ConfigError(f"{origin.name}: parts must be 1 there, got {count}; written in several is {known}")
    return count


def _table(origin: Origin, config: Config, head: Head, format: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the parameters, and the second names that files of the origin hold: never in safetensors."""
    family = family_of(config)
    params, ties = dict(family.params(config, head)), family.ties_within(config, head)
    copies = set() if format == "safetensors" else set(origin.copies(config, head))
    return params, {alias: first for alias, first in ties.items() if alias in copies}


def _spared(origin: Origin, config: Config, head: Head, weights: WeightMap, read: Read) -> set[str]:
    """Return the parameters that are what the absence of their tensors stands for."""
    spared: set[str] = set()
    for group in map(tuple, origin.spared(config, head)):
        implied = {name: weights.theirs(name)[1].absent for name in group}
        if all(_is_implied(read(name), value) for name, value in implied.items()):
            spared.update(group)
        elif origin.only_spared:
            (name, value), *_ = implied.items()
            raise ConfigError(f"{origin.name}: {name} must be {value} there, got other numbers; choose another format")
    return spared


def _is_implied(array: Tensor, absent: str) -> bool:
    if absent == "identity":
        return array.shape[0] == array.shape[-1] and np.array_equal(array, np.eye(len(array), dtype=array.dtype))
    return not array.any()


def _json(keys: Mapping[str, Any]) -> bytes:
    return (json.dumps(keys, indent=2, ensure_ascii=False) + "\n").encode()
