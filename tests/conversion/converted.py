"""The golden folders as `xlbridge convert` makes them, each converted once, and opened as a user opens them."""

import contextlib
import io
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from helpers import TORCH

from conversion import cli
from tests.conversion.models import GOLDEN
from xlcore.config import read_json_object

_HELD = tempfile.TemporaryDirectory(prefix="xlbridge-converted-")


@cache
def converted(folder: Path, **keys: Any) -> Path:
    """Convert a folder by the command line, some keys of its config given; return where the result lies."""
    out = Path(_HELD.name) / "-".join([folder.name, *keys])
    given = out.with_suffix(".json")
    given.write_text(json.dumps(keys))
    with contextlib.redirect_stdout(io.StringIO()):
        assert cli.main(["convert", str(folder), str(out), "--config", str(given)]) == 0
    return out


def loaded(side, folder: Path, name: str = "", **keys: Any) -> Any:
    """Load what a folder is converted to, under the head that its config.json names, or under another.

    A folder that is no golden one is loaded as it is.
    """
    out = converted(folder) if folder.is_relative_to(GOLDEN) else folder
    name = name or read_json_object(out / "config.json")["architectures"][0]
    return getattr(side.towers, name if side is TORCH else f"TF{name}").from_pretrained(out, **keys)
