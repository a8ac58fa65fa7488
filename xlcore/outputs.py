"""What a model returns: fields that can be read by attribute, by key, by position, or as a tuple."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Self

from xlcore.shapes import Contract


class ModelOutput(dict[str, Any]):
    """A dictionary of the fields that a call produced, in the order in which its class declares them.

    `out.loss`, `out["loss"]`, `out[0]`, `out[:2]` and `out.to_tuple()` all work. A field that the call did not
    produce reads as None by attribute and is absent otherwise. Iterating yields keys, as in any dictionary. What shape
    each field has stands in `fields`, the contract of the class.
    """

    fields: ClassVar[Contract] = Contract()
    other_names: ClassVar[dict[str, str]] = {}

    def __init__(self, given: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), **more: Any) -> None:
        given = {**dict(given), **more}
        if unknown := given.keys() - set(self.fields):
            raise KeyError(f"{type(self).__name__} has no field {sorted(unknown)[0]!r}, only {', '.join(self.fields)}")
        super().__init__({name: given[name] for name in self.fields if given.get(name) is not None})

    def __getattr__(self, name: str) -> Any:
        name = self.other_names.get(name, name)
        if name in self.fields:
            return self.get(name)
        raise AttributeError(f"{type(self).__name__} has no field {name!r}, only {', '.join(self.fields)}")

    def __setattr__(self, name: str, value: Any) -> None:
        self[self.other_names.get(name, name)] = value

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return super().__getitem__(self.other_names.get(key, key))
        return self.to_tuple()[key]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)

    def without(self, *names: str) -> Self:
        """Return an output of the same class that lacks some of the fields."""
        return type(self)({name: value for name, value in self.items() if name not in names})

    def flat(self, dot: str = ".") -> dict[str, Any]:
        """Return the fields as one dictionary of arrays, those of a list as `mems.0`, `mems.1`."""
        return dict(pair for name, value in self.items() for pair in _flat(name, value, dot))

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields that there are, in order."""
        return tuple(self.values())


def _flat(name: str, value: Any, dot: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, list | tuple):
        yield name, value
        return
    for number, each in enumerate(value):
        yield from _flat(f"{name}{dot}{number}", each, dot)
