"""Files of weights that our own Keras models save, for every family by one rule (`xlcore.maps.keras`)."""

import re
from collections.abc import Iterable

from xlcore.config import Config
from xlcore.errors import ConfigError
from xlcore.heads import Family, Head
from xlcore.maps.keras import archive_config, h5_paths, is_turned
from xlcore.maps.spelling import snake
from xlcore.origin import Derived, Origin, Seen
from xlcore.weightmap import Row, WeightMap, same

TURNED = "A B -> B A"


def keras_origin(family: Family) -> Origin:
    """Return the origin of a family's Keras files: what stands beside or in them has the config."""
    model_type, body = family.config.model_type, family.heads[0]
    block = snake(body.name.removesuffix("Model") + "Block")
    wrapper = f"layers/{snake('TF' + body.name)}/"

    def weights(config: Config, head: Head) -> WeightMap:
        """Return the map of one model; behind its rows those of the other heads, so that their tensors are known."""
        rows: dict[str, Row] = {}
        for each in (head, *family.heads):
            for row in _rows(family, config, each, wrapper):
                rows.setdefault(row.theirs, row)
        return WeightMap(*rows.values())

    def written(names: Iterable[str], config: Config, head: Head) -> dict[str, str]:
        """Put the parts of the body where a model with a head keeps them."""
        paths = {path.removeprefix(wrapper): path for path in h5_paths(family, config, head).values()}
        return {name: paths[name] for name in names}

    return Origin(
        "keras",
        model_type,
        ("keras",),
        WeightMap(),
        weights,
        recognise=lambda seen: any(re.search(rf"(^|/){block}(_\d+)?/", name) for name in seen.shapes),
        derive=lambda seen: _derive(seen, model_type),
        head=lambda seen, config: _head(seen, config, family, wrapper),
        plain=lambda names: {name: name.removeprefix(wrapper) for name in names},
        written=written,
        copies=lambda config, head: h5_paths(family, config, head).keys() - family.params(config, head).keys(),
        extras=lambda config, head, file: {
            "config": archive_config(config, head, getattr(config, "torch_dtype", "float32"))
        },
    )


def _rows(family: Family, config: Config, head: Head, wrapper: str) -> Iterable[Row]:
    table = {**family.params(config, head), **dict.fromkeys(family.ties_within(config, head))}
    first = family.ties_within(config, head)
    for name, path in h5_paths(family, config, head).items():
        param = table[name] or table[first[name]]
        assert param is not None  # a tie leads to a parameter
        yield same(name, path.removeprefix(wrapper), TURNED if is_turned(name, param) else "")


def _derive(seen: Seen, model_type: str) -> Derived:
    """Take the config of an archive; a file of weights alone has none."""
    keys = seen.extras.get("config", {})
    keys = keys.get("config", {}) if isinstance(keys, dict) else {}
    keys = keys.get("config") if isinstance(keys, dict) else None
    if not isinstance(keys, dict):
        raise ConfigError(f"{seen.where}: a config.json must lie beside the weights of a Keras model, got none")
    return Derived({**keys, **seen.given}, [f"the config is the one in the archive, of a {model_type}"])


def _head(seen: Seen, config: Config, family: Family, wrapper: str) -> str:
    """Return the class whose variables these are."""
    told = seen.extras.get("config", {})
    name = told.get("class_name") if isinstance(told, dict) else None
    if isinstance(name, str):
        return name.removeprefix("TF")
    for head in family.heads:
        if {path.removeprefix(wrapper) for path in h5_paths(family, config, head).values()} == seen.shapes.keys():
            return head.name
    return family.heads[0].name
