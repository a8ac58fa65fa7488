"""Lists and dictionaries that a configuration hands out: to be read, and to be set anew, never changed in place."""

from collections.abc import Callable
from typing import Any

from xlcore.errors import ConfigError


class FrozenList(list[Any]):
    """A list that refuses to be changed: the rules of its configuration would not hear of it.

    Args:
        values: what it holds.
        where: the class of the configuration, and the key.
    """

    def __init__(self, values: Any, where: tuple[str, str]) -> None:
        super().__init__(values)
        self.where = where

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return type(self), (list(self), self.where)


class FrozenDict(dict[Any, Any]):
    """A dictionary that refuses to be changed, as `FrozenList` does."""

    def __init__(self, values: Any, where: tuple[str, str]) -> None:
        super().__init__(values)
        self.where = where

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return type(self), (dict(self), self.where)


def _refusal(change: str) -> Callable[..., Any]:
    """Make the method that stands where a list or dictionary has one that changes it."""

    def refuse(self: FrozenList | FrozenDict, *_: Any, **__: Any) -> Any:
        name, key = self.where
        raise ConfigError(f"{name}: {key} must be set as a whole, got {change} in place; config.{key} = ...")

    return refuse


for _change in ("__setitem__", "__delitem__", "pop", "clear"):
    setattr(FrozenList, _change, _refusal(_change))
    setattr(FrozenDict, _change, _refusal(_change))
for _change in ("append", "extend", "insert", "remove", "sort", "reverse", "__iadd__", "__imul__"):
    setattr(FrozenList, _change, _refusal(_change))
for _change in ("update", "setdefault", "popitem", "__ior__"):
    setattr(FrozenDict, _change, _refusal(_change))


def frozen(value: Any, where: tuple[str, str]) -> Any:
    """Return a value so that it cannot be changed in place; what cannot anyway stays as it is."""
    if isinstance(value, list):
        return FrozenList(value, where)
    return FrozenDict(value, where) if isinstance(value, dict) else value


def thawed(value: Any) -> Any:
    """Return a plain copy of a frozen list or dictionary, which is the caller's own; anything else as it is."""
    if isinstance(value, FrozenList):
        return list(value)
    return dict(value) if isinstance(value, FrozenDict) else value
