"""Which format a file or folder is in: by what it holds, not by what it is called."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from conversion.formats import base, hdf5, keras_files, safetensors, tf1, torch_files
from conversion.formats.h5_process import list_h5
from conversion.formats.model_parts import open_torch
from conversion.formats.sharding import SUFFIX, seen
from conversion.formats.zips import opened
from xlcore.errors import FormatError


@dataclass(frozen=True)
class Format:
    """One format.

    Args:
        name: what it is called here.
        reader: opens a path; see `base.Reader`.
        writer: see `base.Writer`.
        weights: the file that is written if no other is named.
        known: names of files that tell of the format in a folder, whatever else lies there.
        suffixes: ends of names that do so if nothing known lies there.
        skipped: pattern of names that have such an end and are something else.
    """

    name: str
    reader: Callable[[Path], base.Reader]
    writer: type[base.Writer]
    weights: str
    known: tuple[str, ...]
    suffixes: tuple[str, ...]
    skipped: str = "(?!)"

    def fits(self, name: str) -> bool:
        """Tell whether a name ends as those of the format do."""
        return name.endswith(self.suffixes) and not re.match(self.skipped, name)


def _indexed(*names: str) -> tuple[str, ...]:
    return (*names, *(name + SUFFIX for name in names))


_SAFETENSORS = Format(
    "safetensors",
    safetensors.Reader,
    safetensors.Writer,
    safetensors.WEIGHTS,
    _indexed(safetensors.WEIGHTS),
    _indexed(".safetensors"),
)
_TORCH = Format(
    "torch",
    open_torch,
    torch_files.Writer,
    torch_files.WEIGHTS,
    _indexed(torch_files.WEIGHTS),
    _indexed(*torch_files.SUFFIXES),
    torch_files.SKIPPED,
)
_HDF5 = Format(
    "hdf5",
    hdf5.Reader,
    hdf5.Writer,
    hdf5.WEIGHTS,
    _indexed(hdf5.WEIGHTS),
    _indexed(*hdf5.SUFFIXES),
    hdf5.SKIPPED,
)
_KERAS = Format(
    "keras",
    keras_files.Reader,
    keras_files.Writer,
    keras_files.WEIGHTS,
    (keras_files.WEIGHTS, keras_files.INDEX, keras_files.ARCHIVE),
    keras_files.SUFFIXES,
)
_TF1 = Format("tf1", tf1.Reader, tf1.Writer, tf1.PREFIX, (tf1.STATE,), (".index", ".meta"))

#: Every format by its name; where a folder holds several, the first that is there counts.
FORMATS = {each.name: each for each in (_SAFETENSORS, _TORCH, _HDF5, _KERAS, _TF1)}
# Other names say less: what tests and tools leave beside weights is safetensors more often than anything else.
_BY_SUFFIX = (_TORCH, _HDF5, _KERAS, _TF1, _SAFETENSORS)

_TF1_FILES = re.compile(r"checkpoint|.+\.(index|meta|data-\d{5}-of-\d{5})")
_PICKLE = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
_HDF, _ZIP, _LFS = b"\x89HDF\r\n\x1a\n", b"PK\3\4", b"version https://git-lfs"


def open_reader(path: str | Path) -> base.Reader:
    """Open a checkpoint in any format.

    Args:
        path: a file, an index of shards, a folder, or the prefix of a TensorFlow checkpoint.

    Raises:
        FormatError: if there is none, or it is damaged.
    """
    path = Path(path)
    name = find_format(path)
    if name is None:
        kinds = ", ".join(list(FORMATS)[1:])
        raise FormatError(
            f"{path}: must hold {safetensors.WEIGHTS} or weights of another kind ({kinds}), got {_told(path)}"
        )
    reader = FORMATS[name].reader(path)
    if path.is_dir() and (others := _others(path, reader)):
        taken = ", ".join(file.name for file in reader.files[:1])
        reader.notes = (*reader.notes, f"took {taken}; beside it lay {', '.join(others)}")
    return reader


def find_format(path: str | Path) -> str | None:
    """Return the name of the format that a path is in, None if nothing there looks like weights; opens little.

    Raises:
        FormatError: if a file cannot be read.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _format_of_folder(path)
        if path.with_name(path.name + ".index").is_file():
            return "tf1"
        return _format_of_file(path) if path.is_file() else None
    except OSError as error:
        raise FormatError(f"{path}: must be readable, got {error.strerror or error}") from error


def _format_of_folder(folder: Path) -> str | None:
    found = format_among([file.name for file in folder.iterdir() if file.is_file()])
    return found.name if found else None


def format_among(names: Sequence[str]) -> Format | None:
    """Return the format that counts where files of such names lie together."""
    for each in FORMATS.values():
        if set(each.known) & set(names):
            return each
    return next((each for each in _BY_SUFFIX if any(each.fits(name) for name in names)), None)


def _format_of_file(file: Path) -> str | None:
    """Tell the format of a file by its first bytes; of an index by the files that it is about."""
    for each in _BY_SUFFIX:
        if file.name.endswith(tuple(suffix for suffix in each.suffixes if suffix.endswith(".json"))):
            return each.name
    with file.open("rb") as stream:
        head = stream.read(64)
    if head.startswith(_HDF):
        return "hdf5" if list_h5(file).layers else "keras"
    if head.startswith(_ZIP):
        return _format_of_zip(file)
    if head.startswith(_PICKLE):
        return "torch"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < file.stat().st_size:
        return "safetensors"
    return "tf1" if _TF1_FILES.fullmatch(file.name) else None


def _format_of_zip(file: Path) -> str | None:
    with opened(file) as archive:
        names = archive.namelist()
    if any(name.endswith("/data.pkl") for name in names):
        return "torch"
    return "keras" if keras_files.WEIGHTS in names else None


def _others(folder: Path, reader: base.Reader) -> list[str]:
    """Return the weights in a folder that were not taken."""
    taken = {file.name for file in reader.files}
    names = sorted(file.name for file in folder.iterdir() if file.is_file() and file.name not in taken)
    fitting = [name for name in names if any(name in each.known or each.fits(name) for each in FORMATS.values())]
    return [name for name in fitting if not (reader.format == "tf1" and _TF1_FILES.fullmatch(name))]


def _told(path: Path) -> str:
    """Return in a few words what is there in place of weights."""
    if not path.is_file():
        return seen(path) if path.exists() else "no such file or folder"
    with path.open("rb") as stream:
        head = stream.read(64)
    if head.startswith(_LFS):
        return "a pointer of Git LFS; fetch the file itself with git lfs pull"
    return f"a file that begins with {head[:12]!r}" if head else "an empty file"
