"""From what a user names to what is compared: a folder, a config, or a family's examples."""

from pathlib import Path
from typing import Any

import numpy as np

from conversion.checkpoint import Checkpoint, read_config
from conversion.formats import find_format
from conversion.parity.compare import Subject
from xlcore.config import Config, read_json_object
from xlcore.errors import ConfigError, FormatError
from xlcore.families import FAMILIES, config_from_dict, family_of
from xlcore.heads import Head


def subject_of(path: str | Path) -> Subject:
    """Return what a path stands for: a checkpoint of any format, or a config alone, whose weights are drawn.

    Raises:
        FormatError, ConfigError: if it is neither.
    """
    path = Path(path)
    if path.suffix == ".json" and path.is_file():
        return Subject(str(path), config_from_dict(read_json_object(path), str(path)))
    has_weights = find_format(path) is not None
    if not has_weights and not (path / "config.json").is_file():
        what = "a folder without it" if path.is_dir() else "no such file" if path.suffix else "no such folder"
        raise FormatError(f"{path}: must be a folder that holds config.json, or a checkpoint, got {what}")
    config = read_config(path)
    return Subject(str(path), config, _weights(path, config) if has_weights else {})


def heads_of(path: str | Path, config: Config) -> tuple[str, ...]:
    """Return the heads that a checkpoint was saved with; none if it does not say, or is a config alone."""
    known = {head.name for head in family_of(config).heads}
    return tuple(name for name in config.architectures or () if name in known) if Path(path).suffix != ".json" else ()


def examples() -> list[Subject]:
    """Return every family's examples: tiny models that together use every key."""
    return [
        Subject(f"{model_type}: {name}", family.config(**keys))
        for model_type, family in FAMILIES.items()
        for name, keys in family.examples.items()
    ]


def _weights(path: Path, config: Config) -> dict[str, np.ndarray[Any, Any]]:
    """Read every parameter that any head of the family finds in the folder, in float64, for it is exact there."""
    found: dict[str, np.ndarray[Any, Any]] = {}
    for head in family_of(config).heads:
        opened = Checkpoint(path, config, head)
        found |= {name: array.astype("float64") for name, array in opened.tensors() if name not in found}
    if not found:
        raise FormatError(f"{path}: must hold parameters of a known model, got none")
    return found


def require_heads(names: tuple[str, ...], config: Config) -> tuple[Head, ...]:
    """Return heads by name.

    Raises:
        ConfigError: for a name that the family does not have.
    """
    heads = {head.name: head for head in family_of(config).heads}
    for name in names:
        if name.removeprefix("TF") not in heads:
            raise ConfigError(f"parity: --heads must be among {', '.join(heads)}, got {name!r}")
    return tuple(heads[name.removeprefix("TF")] for name in names)
