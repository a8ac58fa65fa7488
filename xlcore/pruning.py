"""Configs of models whose heads can be taken out of their layers."""

from collections.abc import Mapping
from typing import Any, Self

from xlcore import config as rules
from xlcore.config import Config, Unfit, at_least


def heads_by_layer(value: Any) -> dict[int, list[int]]:
    """Take lists of heads by layer; JSON has the layers as strings."""
    if not isinstance(value, Mapping) or not all(str(key).isdecimal() for key in value):
        raise Unfit("map numbers of layers to lists of heads")
    found = {int(layer): sorted(set(rules.list_of(at_least(0))(heads))) for layer, heads in value.items()}
    return {layer: heads for layer, heads in sorted(found.items()) if heads}


class PrunableConfig(Config):
    """A config that says which heads are taken out: it has the key `pruned_heads`, whose rule is `heads_by_layer`."""

    pruned_heads: dict[int, list[int]]
    num_heads: int

    def kept_heads(self, layer: int) -> list[int]:
        """Return the heads that a layer has, by the numbers that they had before any was taken out."""
        return [head for head in range(self.num_heads) if head not in self.pruned_heads.get(layer, ())]

    def without_heads(self, heads: Mapping[int, Any]) -> Self:
        """Return a config with further heads taken out: layer -> heads, by the numbers that they had at first."""
        layers = {*self.pruned_heads, *heads}
        together = {layer: [*self.pruned_heads.get(layer, ()), *heads.get(layer, ())] for layer in layers}
        return self.copy(pruned_heads=together)

    def check_heads(self, values: dict[str, Any], layers: int, heads: int) -> None:
        """Raise `ConfigError` for layers that there are not, and unless some head of each stays."""
        for layer, pruned in values["pruned_heads"].items():
            self.require(layer < layers, "pruned_heads", f"name layers below {layers}", layer)
            some = max(pruned) < heads and len(pruned) < heads
            self.require(some, f"pruned_heads[{layer}]", f"name some of the {heads} heads, not all", pruned)
