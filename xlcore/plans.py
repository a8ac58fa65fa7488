"""How the parameters of a model are dealt out to several devices, as data: for every family, by name and kind.

A layer of a Transformer needs its devices to talk twice if the maps into it are cut by what they give and the maps out
of it by what they take (Shoeybi et al., 2019, section 3): each device then has some of the heads, and some of the
feed-forward's inner units, whole.
"""

import re
from dataclasses import dataclass
from typing import Literal

from xlcore.config import Config
from xlcore.errors import ConfigError
from xlcore.heads import Family, Head
from xlcore.params import Params
from xlcore.pruning import PrunableConfig

Role = Literal["output", "input", "heads", "vocabulary", "whole"]


@dataclass(frozen=True)
class Split:
    """How one parameter is dealt out.

    Attributes:
        role: `output` and `input` for linear maps cut by what they give or take, `heads` for what each head has one of,
            `vocabulary` for what each word has one of; `whole` is the same on every device.
        axis: along which axis of its shape in the specification; None if it is whole.
    """

    role: Role
    axis: int | None


WHOLE = Split("whole", None)

# The first row whose pattern is the whole name counts.
_BLOCK = r"blocks\.\d+\."
_ATTENTION = _BLOCK + r"(cross_)?attention\."
RULES: tuple[tuple[str, Split], ...] = (
    (_ATTENTION + r"(query|key|value|position)\.(weight|bias)", Split("output", 0)),
    (_ATTENTION + r"out\.weight", Split("input", 1)),
    (_BLOCK + r"feed_forward\.inner\.(weight|bias)", Split("output", 0)),
    (_BLOCK + r"feed_forward\.outer\.weight", Split("input", 1)),
    (r"(blocks\.\d+\.attention\.)?(content|position|segment)_bias", Split("heads", 0)),
    (_ATTENTION + r"segment_embedding", Split("heads", 1)),
    (r"embedding\.weight|lm_head\.(weight|bias)", Split("vocabulary", 0)),
    (r"(embedding|crit)\.bins\.\d+\.(weight|bias)", Split("vocabulary", 0)),
)


def plan(params: Params) -> dict[str, Split]:
    """Say for every parameter of a table how it is dealt out; its shape is that of the specification, [out, in]."""
    return {name: next((split for rule, split in RULES if re.fullmatch(rule, name)), WHOLE) for name in params}


def plan_for(where: str, family: Family, config: Config, head: Head, parts: int) -> dict[str, Split]:
    """Say how every parameter of a model is dealt out to that many devices.

    Tables of words that cannot be dealt out evenly stay whole, for only their size depends on it.

    Args:
        where: what asks, for errors.

    Raises:
        ConfigError: if the heads of a layer, or the inner units of feed-forward layers, cannot be dealt out evenly.
    """
    params = family.params(config, head)
    found = plan(params)
    _require_even(where, config, parts)
    for name, split in found.items():
        if split.axis is not None and params[name].shape[split.axis] % parts:
            found[name] = WHOLE
    return found


def _require_even(where: str, config: Config, parts: int) -> None:
    counts: dict[str, int] = {"feed_forward_size": config.feed_forward_size, "num_heads": config.num_heads}
    for number in range(config.num_layers) if isinstance(config, PrunableConfig) else ():
        counts[f"heads of layer {number}"] = len(config.kept_heads(number))
    for what, count in counts.items():
        if count % parts:
            raise ConfigError(f"{where}: {what} must be a multiple of the {parts} devices, got {count}")
