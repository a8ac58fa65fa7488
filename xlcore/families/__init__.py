"""The one list of families. A new family is a file beside this one and a line here."""

from collections.abc import Mapping
from typing import Any

from xlcore.config import Config
from xlcore.errors import ConfigError, did_you_mean
from xlcore.families.transfo_xl import TRANSFO_XL
from xlcore.families.xlm import XLM
from xlcore.families.xlm_roberta_xl import XLM_ROBERTA_XL
from xlcore.families.xlnet import XLNET
from xlcore.heads import Family, Head

FAMILIES: dict[str, Family] = {family.config.model_type: family for family in (TRANSFO_XL, XLNET, XLM, XLM_ROBERTA_XL)}


def family_of(config: Config) -> Family:
    """Return the family that a config belongs to."""
    return FAMILIES[config.model_type]


def find_head(model: type) -> tuple[Family, Head]:
    """Find the family and the head of a model class by its name, or by the nearest known name among its bases."""
    names = [base.__name__.removeprefix("TF") for base in model.__mro__]
    known = {head.name: (family, head) for family in FAMILIES.values() for head in family.heads}
    for name in names:
        if name in known:
            return known[name]
    raise ConfigError(f"FAMILIES: {names[0]} must be or extend a known model class{did_you_mean(names[0], known)}")


def find_head_by_name(name: str) -> Head:
    """Find a head by the name of its class, with or without Keras' prefix TF."""
    known = {head.name: head for family in FAMILIES.values() for head in family.heads}
    if name.removeprefix("TF") not in known:
        raise ConfigError(f"FAMILIES: {name!r} must be a known model class{did_you_mean(name, known)}")
    return known[name.removeprefix("TF")]


def config_from_dict(keys: Mapping[str, Any], where: str, **overrides: Any) -> Config:
    """Make the config of whichever family the keys of a config.json file belong to."""
    model_type = keys.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = ", ".join(map(repr, FAMILIES))
        raise ConfigError(f"{where}: model_type must be one of {known}, got {model_type!r}")
    return FAMILIES[model_type].config.from_dict(keys, **overrides)
