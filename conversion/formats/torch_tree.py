"""What a torch file holds, sorted: the model's tensors by name, other tensors, and all the rest.

A file may hold a state dict, a dictionary with a state dict among other things, or a whole pickled module. All of it
is inert: `xlcore.pickles` read it, and nothing ran.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from xlcore.errors import FormatError
from xlcore.inert import HERE, Stored
from xlcore.pickles import Placeholder

Leaf = Stored | np.ndarray[Any, Any]
_LEAF = (Stored, np.ndarray)

# Where training programs put the state dict, the likeliest first; a translation model has one for each half.
KEYS = ("model", "state_dict", "model_state_dict", "module", "net", "weights")
HALVES = ("encoder", "decoder")
_MODULE = {"_parameters", "_modules", "_buffers"}
_MOST, _DEEPEST = 4_000_000, 64


class Found:
    """What was found in a torch file.

    Attributes:
        tensors: the model's, by name.
        aside: the other tensors, by the path of keys to them.
        extras: everything but the model's tensors; `HERE` stands in the place of a state dict.
        notes: which state dict was taken.
    """

    def __init__(self, held: Any, where: str) -> None:
        self._where = where
        self._seen = 0
        self.tensors: dict[str, Leaf] = {}
        self.aside: dict[str, Stored] = {}
        self.extras: dict[str, Any] = {}
        self.notes: tuple[str, ...] = ()
        self._sort(held)
        if not self.tensors:
            raise FormatError(f"{where}: must hold tensors by name, got {_told(held)}")

    def _sort(self, held: Any) -> None:
        """Tell the state dict from what lies beside it."""
        if _is_module(held):
            self.extras = dict(self._settings(held, ""))
            self.notes = (f"took the tensors of a pickled module, {held.module}.{held.name}",)
            self._name_all(held)
            return
        if not isinstance(held, dict):
            return
        keys = self._keys_of_state(held)
        if not keys:
            self._name_all(held)
            return
        for key in keys:
            self._name_all(held[key], f"{key}." if len(keys) > 1 else "")
        self.extras |= {str(key): HERE if key in keys else value for key, value in held.items()}
        rest = {key: value for key, value in held.items() if key not in keys}
        self.aside = {path: leaf for path, leaf in self._walk(rest, "") if isinstance(leaf, Stored)}
        besides = ", ".join(f"{key!r}" for key in rest) or "nothing"
        self.notes = (f"took the tensors under {' and '.join(map(repr, keys))}; beside them lay {besides}",)

    def _settings(self, module: Placeholder, path: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
        """Yield the attributes of a module and those of its parts, by path."""
        self._seen += 1
        if self._seen > _MOST or depth > _DEEPEST:
            raise FormatError(f"{self._where}: must hold at most {_MOST} things {_DEEPEST} deep, got more")
        yield from ((path + key, value) for key, value in module.attributes.items() if key not in _MODULE)
        for key, part in _items(module.attributes.get("_modules")):
            if _is_module(part):
                yield from self._settings(part, f"{path}{key}.", depth + 1)

    def _keys_of_state(self, held: Mapping[Any, Any]) -> tuple[str, ...]:
        """Return the keys of a dictionary under which the model lies; none if the dictionary itself is the model."""
        if known := [key for key in KEYS if self._has_tensors(held.get(key))]:
            return (known[0],)
        if all(self._has_tensors(held.get(key)) for key in HALVES):
            return HALVES
        if any(isinstance(value, _LEAF) for value in held.values()):
            return ()
        holders = [key for key, value in held.items() if self._has_tensors(value)]
        plain = [key for key, value in held.items() if not isinstance(value, dict) and not _is_module(value)]
        if len(holders) > 1 and plain:
            listed = ", ".join(repr(key) for key in holders[:8])
            known_keys = ", ".join(KEYS)
            raise FormatError(
                f"{self._where}: the model must lie under one of {known_keys}, got tensors under {listed}"
            )
        return (holders[0],) if len(holders) == 1 and isinstance(holders[0], str) else ()

    def _has_tensors(self, value: Any) -> bool:
        if not isinstance(value, dict) and not _is_module(value):
            return False
        return any(isinstance(leaf, Stored) for _, leaf in self._walk(value, ""))

    def _name_all(self, state: Any, prefix: str = "") -> None:
        """Name every tensor of a state dict by its path; what is no tensor goes to the extras."""
        for name, leaf in self._walk(state, prefix):
            if isinstance(leaf, _LEAF):
                if name in self.tensors:
                    raise FormatError(f"{self._where}: every tensor must have a name of its own, got {name!r} twice")
                self.tensors[name] = leaf
            elif isinstance(leaf, Placeholder) and leaf.name.startswith("_rebuild"):
                raise FormatError(f"{self._where}: {name!r} must be a plain tensor, got one made by {leaf.name}")
            else:
                self.extras[name] = leaf

    def _walk(self, value: Any, path: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
        """Yield everything in nested dictionaries, lists and modules, with the path to it."""
        self._seen += 1
        if self._seen > _MOST or depth > _DEEPEST:
            raise FormatError(f"{self._where}: must hold at most {_MOST} things {_DEEPEST} deep, got more")
        parts = _parts(value)
        if parts is None:
            yield path.removesuffix("."), value
            return
        for key, part in parts:
            yield from self._walk(part, f"{path}{key}.", depth + 1)


def _parts(value: Any) -> list[tuple[Any, Any]] | None:
    """Return what a thing consists of, or None if it is one thing."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, list | tuple) and any(isinstance(each, (*_LEAF, dict, list, tuple)) for each in value):
        return list(enumerate(value))
    if not _is_module(value):
        return None
    known = value.attributes
    fleeting = known.get("_non_persistent_buffers_set")
    names = fleeting.args[0] if isinstance(fleeting, Placeholder) and fleeting.args else ()
    skipped = set(map(str, names)) if isinstance(names, list | tuple) else set()
    found = [(key, each) for part in ("_parameters", "_buffers", "_modules") for key, each in _items(known.get(part))]
    return [(key, each) for key, each in found if each is not None and str(key) not in skipped]


def _items(value: Any) -> list[tuple[Any, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _is_module(value: Any) -> bool:
    return isinstance(value, Placeholder) and value.attributes.keys() >= _MODULE


def _told(held: Any) -> str:
    if isinstance(held, dict):
        return "a dictionary of " + (", ".join(repr(key)[:40] for key in list(held)[:8]) or "nothing")
    return repr(held)[:60] if isinstance(held, Placeholder) else type(held).__name__
