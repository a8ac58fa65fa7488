"""Small files: written whole or not at all, read with clear errors."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from xlcore.errors import FormatError


def named_folder(where: str, path: str | Path) -> Path:
    """Return the path of a folder; the empty name, which would be the current one, is none.

    Raises:
        FormatError: for the empty name.
    """
    if not str(path):
        raise FormatError(f"{where}: path must name a folder, got {path!r}; '.' is the current one")
    return Path(path)


def made_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder and those above it, unless they are there; return its path.

    Raises:
        FormatError: for what is no folder, or cannot be one.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise FormatError(f"{folder}: must be a folder, or not exist yet, got a file") from error
    except OSError as error:
        raise FormatError(f"{folder}: must be writable, got {error.strerror or error}") from error
    return folder


def write_text(path: Path, text: str) -> str:
    """Write a file of text, as `write_bytes` does."""
    return write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> str:
    """Write a file through a temporary one beside it, so that no reader ever sees half of it; return the path."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return str(path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any) -> str:
    """Write a value as JSON, as `write_text` does."""
    return write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Return what a JSON file holds. Raises FormatError if it is none."""
    return parse_json(path.read_bytes(), path)


def parse_json(content: bytes, where: str | Path) -> Any:
    """Return what the content of a JSON file holds. Raises FormatError if it is none."""
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: the file must be JSON in UTF-8, got one that fails: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file, an empty one where there is no file."""
    if not path.exists():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise FormatError(f"{path}: the file must hold a JSON object, got {type(found).__name__}")
    return found
