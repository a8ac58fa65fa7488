"""Where checkpoints come from: how each origin calls and lays out a family's tensors, and how a config follows from it.

An origin is data and pure functions: names, shapes and the JSON files that lie beside go in, a config comes out.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xlcore.config import Config
from xlcore.errors import ConfigError
from xlcore.heads import Head
from xlcore.layouts import layout_shape
from xlcore.weightmap import WeightMap

Shape = tuple[int, ...]
Keys = Mapping[str, Any]


@dataclass(frozen=True)
class Seen:
    """What a checkpoint shows without a number of it being read.

    Attributes:
        where: the path, for messages.
        shapes: the foreign shapes by plain name (see `Origin.plain`).
        names: the names in the file by plain name.
        side: the JSON objects that lie beside the weights, by file name.
        given: config keys that the caller gave; they win.
        extras: what else the file itself holds, inert.
    """

    where: str
    shapes: Mapping[str, Shape]
    names: Mapping[str, str] = field(default_factory=dict)
    side: Mapping[str, Keys] = field(default_factory=dict)
    given: Keys = field(default_factory=dict)
    extras: Keys = field(default_factory=dict)


@dataclass(frozen=True)
class Derived:
    """A config that was derived: its keys, notes of where they come from, and the same for every key."""

    keys: dict[str, Any]
    notes: list[str]
    told: dict[str, str] = field(default_factory=dict)


def as_they_are(names: Iterable[str]) -> dict[str, str]:
    """Leave names as a file has them."""
    return {name: name for name in names}


def bare_body(prefix: str) -> Callable[[Iterable[str], Config, Head], dict[str, str]]:
    """Make the spelling of HuggingFace's files: those of a body alone leave out where a model with a head keeps it."""
    return lambda names, config, head: {
        name: name.removeprefix(prefix) if head.kind == "base" else name for name in names
    }


def nothing(config: Config, head: Head) -> dict[str, Any]:
    """Ask for nothing on top."""
    return {}


@dataclass(frozen=True)
class Origin:
    """One way in which checkpoints of a family come: whose names, which layouts, what lies beside.

    Args:
        name: what people call it: `"hf"`, `"hf-tf"`, `"tf1"`, `"torch-original"`, `"keras"`.
        model_type: the family.
        formats: the file formats that it comes in; the first is the one that it is written in.
        names: a map that knows every name, whatever the config; layouts may depend on the config.
        weights: the map for one config and head.
        recognise: tells from plain names and what lies beside whether this is the origin.
        derive: makes a config where none lies beside.
        head: the class of the model that the tensors make.
        plain: from the names in a file to the names of the map: wrappers off, averages in place of what they average.
        written: from the names of the map to those in a file.
        check: raises ConfigError for a model that the origin has no way to hold.
        copies: the second names of tied tensors that are written as tensors of their own.
        spared: groups of canonical tensors that are left out where all of a group are what their absence stands for.
        constants: what the origin wants in the file that follows from the config, by name of the map.
        side: the JSON files that it wants beside the weights.
        extras: what it wants in the file itself beside tensors; it may read a tokenizer's
            files that go along, by name.
        parted: what each part holds beside tensors where a model is written in so many parts, from the config and the
            `extras` of a whole one; it raises ConfigError for one that cannot be. None: models come whole only.
        only_spared: `spared` tensors have no place in its files at all: another value than the implied one is refused.
        files: further files that it wants beside the weights; made as `extras` are.
        fits: holds the files of a tokenizer, read by name, against each other and the config; the path is for messages.
        made: files of a tokenizer that follow from what the file itself holds; it is given the path, for messages.
        renamed: files beside the weights that belong to a tokenizer under another name: a regular expression for
            theirs, and ours.
        untied: from a config and canonical names of copies that differ from what they are tied to, to the config that
            unties them.
        unties: copies that differ are untied even where a config.json ties them: the origin never tied anything.
        file: the name of its file where it is not the format's own.
        carried: files beside the weights that belong to the family: vocabularies.
    """

    name: str
    model_type: str
    formats: tuple[str, ...]
    names: WeightMap
    weights: Callable[[Config, Head], WeightMap]
    recognise: Callable[[Seen], bool]
    derive: Callable[[Seen], Derived]
    head: Callable[[Seen, Config], str]
    plain: Callable[[Iterable[str]], Mapping[str, str]] = as_they_are
    written: Callable[[Iterable[str], Config, Head], Mapping[str, str]] = lambda names, config, head: as_they_are(names)
    check: Callable[[Config, Head], object] = nothing
    copies: Callable[[Config, Head], Iterable[str]] = nothing
    spared: Callable[[Config, Head], Iterable[Iterable[str]]] = nothing
    constants: Callable[[Config, Head], Mapping[str, "np.ndarray[Any, Any]"]] = nothing
    side: Callable[[Config, Head], Mapping[str, Keys]] = nothing
    extras: Callable[[Config, Head, Callable[[str], bytes | None]], Keys] = lambda config, head, file: {}
    parted: Callable[[Config, Keys, int], Keys] | None = None
    only_spared: bool = False
    files: Callable[[Config, Head, Callable[[str], bytes | None]], Mapping[str, bytes]] = lambda config, head, file: {}
    fits: Callable[[Callable[[str], bytes | None], Config, str], None] = lambda file, config, where: None
    made: Callable[[Keys, str], Mapping[str, bytes]] = lambda extras, where: {}
    renamed: Mapping[str, str] = field(default_factory=dict)
    untied: Callable[[Any, Iterable[str]], Config] = lambda config, names: config
    unties: bool = False
    file: str = ""
    carried: tuple[str, ...] = ()


def settle(seen: Seen, known: Mapping[str, Any], *sources: tuple[str, Keys]) -> Derived:
    """Put a config together: for each key the first source that tells it, and a note for every source.

    Args:
        seen: the checkpoint; keys that the caller gave win over all.
        known: the fields of the config, whose defaults stand in for what no source tells.
        sources: what each tells: where it is from, and its keys. The first is what the shapes tell, which later ones
            may not contradict.

    Raises:
        ConfigError: if a file beside the weights contradicts their shapes.
    """
    shapes = sources[0][1]
    keys, notes, told_by = dict(seen.given), [], dict.fromkeys(seen.given, "the caller")
    for source, told in sources:
        for key in told.keys() & shapes.keys() - seen.given.keys():
            if told[key] != shapes[key]:
                raise ConfigError(
                    f"{seen.where}: {key} of {source} must be {shapes[key]}, as the tensors have it, got {told[key]}"
                )
        new = {key: value for key, value in told.items() if key not in keys}
        keys |= new
        told_by |= dict.fromkeys(new, source)
        if new:
            notes.append(f"{', '.join(f'{key}={value!r}' for key, value in new.items())}: from {source}")
    if untold := {key: default for key, default in known.items() if key not in keys}:
        listed = ", ".join(f"{key}={value!r}" for key, value in untold.items())
        notes.append(f"{listed}: the defaults, for nothing tells them")
        told_by |= dict.fromkeys(untold, "the default, for nothing tells it")
    return Derived(keys, notes, told_by)


def canonical_shapes(names: WeightMap, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Return the foreign shapes by canonical name, for names of one part; `{i}` stands where layers lie in one."""
    found: dict[str, Shape] = {}
    for foreign, shape in shapes.items():
        known = names.knows(foreign)
        ours, _, theirs = (names.layout(foreign) if known else "").partition("->")
        for name in names.ours(foreign) if known else ():
            found.setdefault(name, layout_shape(shape, f"{theirs}->{ours}" if ours else "", {}))
    return found


def numbered(found: Iterable[str], before: str, after: str) -> list[int]:
    """Return the numbers that stand between two ends of names, sorted."""
    between = (name[len(before) : -len(after)] for name in found if name.startswith(before) and name.endswith(after))
    return sorted(int(number) for number in between if number.isdecimal())


def require(origin: str, config: Config, **wanted: Any) -> None:
    """Require values that are the only ones which an origin can hold.

    Raises:
        ConfigError: for another value.
    """
    for key, value in wanted.items():
        if (got := getattr(config, key)) != value:
            raise ConfigError(f"{origin}: {key} must be {value!r} there, got {got!r}; choose another format")
