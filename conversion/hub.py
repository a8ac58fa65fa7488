"""Checkpoints on the hub: what is needed of one is fetched when it is asked for, into huggingface_hub's own cache."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any
from urllib.parse import unquote

from conversion.formats import FORMATS, tf1
from conversion.formats.finding import format_among
from conversion.source import CARRIED, SIDE
from xlcore import __version__
from xlcore.config import read_json_object
from xlcore.errors import ConfigError, FormatError, XLError
from xlcore.maps import ORIGINS

SCHEME = "hf://"
_REFERENCE = re.compile(
    r"hf://(?P<repository>[\w.-]+(/[\w.-]+)?)(@(?P<revision>refs/[\w.-]+/[^/@]+|[^/@]+))?(/(?P<folder>[^@]+?))?/*",
    re.ASCII,
)
_BESIDE = {*SIDE, *CARRIED, *(name for origin in ORIGINS for name in origin.carried)}
_INDEXES = (".json", ".index")  # what only says where the weights are


@dataclass(frozen=True)
class _Place:
    """Where on the hub: a repository, a revision of it (the newest if empty), a folder in it."""

    reference: str
    repository: str
    revision: str
    folder: str


def is_reference(path: str | Path) -> bool:
    """Tell whether a path means a place on the hub."""
    return isinstance(path, str) and path.startswith(SCHEME)


def fetched(reference: str, *, revision: str | None = None, only: str | Sequence[str] | None = None) -> Path:
    """Fetch what is needed of a checkpoint on the hub, unless it was before, and return where it lies.

    That is config, vocabulary and settings of the tokenizer, and the weights in one format, safetensors if there are
    such. Where to fetch from, the cache, tokens and proxies are as huggingface_hub has them (HF_ENDPOINT, HF_HOME and
    so on), as are progress bars and going on with what was interrupted. With HF_HUB_OFFLINE=1 what was fetched before
    is taken.

    Args:
        reference: `hf://owner/name[@revision][/folder]`, or with a file of weights or a TensorFlow prefix at the end.
        revision: branch, tag or commit, where the reference has none.
        only: names of weights to fetch in place of the best, with wildcards as in a shell.

    Returns:
        A folder; where certain weights were asked for, and these are one file (or index), that file.

    Raises:
        FormatError: if huggingface_hub is not installed or offline, the repository is not there or closed to you, it
            has no weights or several to choose from, or anything fails on the way.
    """
    place = _parsed(reference, revision)
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        hint = "pip install 'xlbridge[hub]'"
        raise FormatError(f"{reference}: huggingface_hub must be installed to fetch it, got {error}; {hint}") from error
    with _told(reference, huggingface_hub.errors):
        return _fetch(huggingface_hub, place, [only] if isinstance(only, str) else only)


def _parsed(reference: str, revision: str | None) -> _Place:
    match = _REFERENCE.fullmatch(reference)
    folder = (match and match["folder"]) or ""
    if not match or any(part in ("", ".", "..") for part in folder.split("/") if folder):
        raise FormatError(f"{reference}: must be hf://owner/name[@revision][/folder], got another form")
    own = unquote(match["revision"] or "")
    if own and revision not in (None, own):
        raise FormatError(f"{reference}: must name one revision, got {own!r} in it and {revision!r} beside it")
    return _Place(reference, match["repository"], own or revision or "", folder)


def _fetch(hub: ModuleType, place: _Place, only: Sequence[str] | None) -> Path:
    api = hub.HfApi(library_name="xlbridge", library_version=__version__)
    commit, found = _listed(hub, api, place)
    place, only = _aimed(place, found, only)
    names = sorted(path.name for path in map(PurePosixPath, found) if path.parent == PurePosixPath(place.folder))
    chosen = _chosen(names, only, place.reference)

    def get(name: str, revision: str = commit) -> Path:
        return Path(api.hf_hub_download(place.repository, f"{place.folder}/{name}".lstrip("/"), revision=revision))

    for name in sorted(_BESIDE & set(names)):
        get(name)
    files = {name: get(name) for name in chosen}
    for name in chosen:
        for part in _parts(files[name], names):
            get(part)
    if place.revision != commit:
        get(chosen[0], place.revision or "main")  # so that the cache knows the revision by its name
    folder = files[chosen[0]].parent
    heads = [name for name in chosen if name.endswith(_INDEXES)] or chosen
    return folder / heads[0] if only is not None and len(heads) == 1 else folder


def _listed(hub: ModuleType, api: Any, place: _Place) -> tuple[str, list[str]]:
    """Return the commit that a place means now, and all files of it."""
    try:
        info = api.model_info(place.repository, revision=place.revision or None)
    except hub.errors.OfflineModeIsEnabled:
        return _cached(hub, place)
    return info.sha, [sibling.rfilename for sibling in info.siblings or ()]


def _cached(hub: ModuleType, place: _Place) -> tuple[str, list[str]]:
    """Return what `_listed` does, of what was fetched before."""
    name = place.revision or "main"
    with suppress(hub.errors.CacheNotFound):
        own = [
            each for each in hub.scan_cache_dir().repos if (each.repo_type, each.repo_id) == ("model", place.repository)
        ]
        for revision in (each for repository in own for each in repository.revisions):
            if name in (revision.commit_hash, *revision.refs):
                files = [file.file_path.relative_to(revision.snapshot_path) for file in revision.files]
                return revision.commit_hash, [file.as_posix() for file in files]
    raise FormatError(
        f"{place.reference}: must have been fetched before while the hub is offline, got no {name!r} of it"
    )


def _aimed(place: _Place, found: Sequence[str], only: Sequence[str] | None) -> tuple[_Place, Sequence[str] | None]:
    """Return the folder and the weights in it, where what was named as a folder is a file or a prefix."""
    for name in (place.folder, f"{place.folder}.index"):
        if only is None and name in found:
            path = PurePosixPath(name)
            return replace(place, folder=str(path.parent).removeprefix(".")), [escape(path.name)]
    return place, only


def _chosen(names: Sequence[str], only: Sequence[str] | None, where: str) -> list[str]:
    """Return the weights to fetch, or their index: those that are asked for, or those that would be opened."""
    seen = ", ".join(names[:12]) or "no files"
    if only is not None:
        found = [name for name in names if any(fnmatchcase(name, pattern) for pattern in only)]
        if not found:
            raise FormatError(f"{where}: must hold {' or '.join(only)}, got {seen}")
        return found
    best = format_among(names)
    if best is None:
        raise FormatError(f"{where}: must hold weights in a known format, {', '.join(FORMATS)}; got {seen}")
    known = [name for name in best.known if name in names and name != tf1.STATE]
    fitting = [name for name in names if best.fits(name)]
    found = known[:1] or [name for name in fitting if name.endswith(_INDEXES)] or fitting
    if len(found) != 1:
        raise FormatError(
            f"{where}: must hold one checkpoint, got {', '.join(found[:12]) or seen}; name one: {where}/FILE"
        )
    return found


def _parts(file: Path, names: Sequence[str]) -> list[str]:
    """Return the files that an index is about; none for what is no index.

    Raises:
        FormatError: if it is damaged, or names what is not there.
    """
    if file.suffix == ".index":
        return [name for name in names if name.startswith(f"{file.stem}.data-") or name == tf1.STATE]
    if not file.name.endswith(_INDEXES):
        return []
    try:
        weight_map = read_json_object(file).get("weight_map")
    except ConfigError as error:
        raise FormatError(str(error)) from error
    listed = weight_map.values() if isinstance(weight_map, dict) else [None]
    parts = {str(name) for each in listed for name in (each if isinstance(each, list) else [each])}
    if strange := sorted(parts - set(names)):
        raise FormatError(f"{file}: weight_map must name files that lie beside it, got {', '.join(strange[:4])}")
    return sorted(parts)


@contextmanager
def _told(reference: str, errors: ModuleType) -> Iterator[None]:
    """Turn whatever fails on the way into one error of ours; which library speaks to the net depends on the version."""
    try:
        yield
    except XLError:
        raise
    except Exception as error:
        raise FormatError(f"{reference}: {_reason(error, errors)}") from error


def _reason(error: Exception, errors: ModuleType) -> str:
    if isinstance(error, errors.GatedRepoError):
        return "you must have been granted access, got a gated repository; ask for it on its page and log in to the hub"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the repository must be there, got none of that name that is open to you; log in if it is private"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the revision must be there, got none of that name"
    if isinstance(error, errors.HFValidationError):
        return f"the repository must have a name that the hub allows, got: {error}"
    what = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'nothing'}"
    return f"the hub must answer and the disk take it, got {what}; HF_HUB_OFFLINE=1 takes what was fetched before"
