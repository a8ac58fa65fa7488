"""Any checkpoint, seen in canonical names: whose it is, the config that follows, and what becomes of each tensor."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from conversion.fit import Fit
from conversion.formats import open_reader
from conversion.formats.base import Entry, Reader, Tensor
from xlcore.config import Config, read_json_object
from xlcore.errors import ConfigError, WeightError, XLError
from xlcore.families import config_from_dict, family_of, find_head_by_name
from xlcore.heads import Family, Head
from xlcore.maps import ORIGINS
from xlcore.maps.spelling import AVERAGED
from xlcore.origin import Derived, Keys, Origin, Seen

SIDE = ("config.json", "args.json", "flags.json", "corpus-info.json", "xlnet_config.json")
CARRIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
)

Fate = Literal["used", "tied", "split", "ignored", "unexpected"]


@dataclass(frozen=True)
class Account:
    """What became of one tensor of a checkpoint.

    Attributes:
        name: its name in the file.
        entry: its shape and dtype.
        fate: `"used"` as one parameter or as rows of one, `"split"` into several, `"tied"`: a copy of one that another
            tensor gives, or `"ignored"`; `"unexpected"` only where the checkpoint was opened although it does not fit.
        into: the canonical names of the parameters that have it.
        reason: why it is ignored, or what it is a copy of.
    """

    name: str
    entry: Entry
    fate: Fate
    into: tuple[str, ...] = ()
    reason: str = ""


class Source:
    """A checkpoint as a model of ours sees it: parameters by canonical name, in canonical layout, one at a time.

    Attributes:
        path, reader, format: what was opened.
        origin: whose names and layouts these are.
        family, config, head: the model.
        entries: for every parameter its shape and the dtype in the file.
        accounts: what became of every tensor; there are no others.
        notes: what was found out, derived or decided, for people.
        warnings: what of it someone should look at: numbers of the file that the model will not have.
        told: for every key of a config that was derived where it comes from.
        info: what does not fit; nothing, unless the checkpoint was opened although it does not.
        carried: files beside the weights that belong to the family: vocabularies and settings of tokenizers.
        renamed: those that it calls otherwise: our name -> the file.
    """

    def __init__(self, path: Path, opened: "Opened") -> None:
        fit, origin, config, self.notes, self.warnings, self.told = opened
        self.path, self.reader, self.format, self.origin = path, fit.reader, fit.reader.format, origin
        self.family: Family = family_of(config)
        self.config, self.head = config.copy(architectures=[fit.head.name]), fit.head
        self._fit, self.info = fit, fit.info
        self.entries = {
            name: Entry(name, fit.params[name].shape, fit.dtype_of(name))
            for name in fit.params
            if name in fit.chosen or name in fit.filled
        }
        self.accounts = _accounts(fit)
        folder = folder_of(path)
        self.carried = [folder / name for name in (*origin.carried, *CARRIED) if (folder / name).is_file()]
        self.renamed = _renamed(folder, origin)

    @property
    def copies(self) -> dict[str, str]:
        """The second names of tied parameters that have a tensor of their own, each with the first."""
        return {other: name for name, names in self._fit.chosen.items() for other in names if other != name}

    def read(self, name: str, *, finite: bool = True) -> Tensor:
        """Read one parameter by its canonical name, or a copy by its second name, in canonical layout.

        Raises:
            WeightError: if it holds NaN or infinity, unless `finite` is off.
        """
        return self._fit.read(name, finite=finite)

    @cached_property
    def made(self) -> dict[str, bytes]:
        """Further files of a tokenizer, by name: made of what the file itself holds, or called otherwise beside it.

        Raises:
            FormatError: if what the file holds makes none.
        """
        files = dict(self.origin.made(self.reader.extras, str(self.path)))
        files |= {name: path.read_bytes() for name, path in self.renamed.items()}
        stand = {path.name for path in self.carried}
        return {name: content for name, content in files.items() if name not in stand}

    def file(self, name: str) -> bytes | None:
        """Return a file of the tokenizer's that goes along; None if there is none of that name."""
        found = {path.name: path for path in self.carried}
        return found[name].read_bytes() if name in found else self.made.get(name)

    def forget(self) -> None:
        """Let go of the tensor that was read last, which is kept for others that lie in it."""
        self._fit.forget()


def open_source(
    path: str | Path,
    *,
    config: Config | Mapping[str, Any] | None = None,
    head: str | Head | None = None,
    values: bool = True,
    whole: bool = True,
) -> Source:
    """Open any checkpoint: a folder, a file, or the prefix of one.

    Args:
        path: what to open. JSON files of the origin lie beside the weights.
        config: a config to take as it is, or keys that win over what is found.
        head: the model class; else what the config names in `architectures`, else what the tensors make.
        values: whether tensors may be read to find out if copies of tied ones differ; else they are taken as equal.
        whole: whether tensors must fit the model; else `info` tells which do not.

    Raises:
        FormatError: if the files are damaged or of no known format.
        ConfigError: if the config does not hold or follow.
        WeightError: if tensors are missing, left over, or of other shapes.
    """
    opened = open_fit(Path(path), config, head, values)
    if whole:
        _require_whole(opened.fit)
    left_out = [f"{name} is left out by {opened.origin.name}: {value}" for name, value in opened.fit.filled.items()]
    opened.notes.extend(left_out)
    return Source(Path(path), opened)


class Opened(NamedTuple):
    """How a checkpoint fits a model, whose it is, the config, notes, warnings, and where derived keys come from."""

    fit: Fit
    origin: Origin
    config: Config
    notes: list[str]
    warnings: list[str]
    told: dict[str, str]


def open_fit(
    path: Path, config: Config | Mapping[str, Any] | None, head: str | Head | None = None, values: bool = True
) -> Opened:
    """Open a checkpoint as `open_source` does, whether all of its tensors fit or not."""
    reader = open_reader(path)
    side = read_side(path)
    given = {} if config is None or isinstance(config, Config) else dict(config)
    known = config if isinstance(config, Config) else _beside(path, side, given)
    origin, seen = find_origin(path, reader, side, known.model_type if known else None, given)
    settled, notes, told = known, [*reader.notes, *_on_averages(reader)], dict.fromkeys(given, "the caller")
    if settled is None:
        derived = _derived(origin, seen)
        notes += derived.notes
        told = derived.told
        settled = config_from_dict({"model_type": origin.model_type, **derived.keys}, str(path), **given)
    fit = Fit(path, reader, origin, settled, _head_of(settled, origin, seen, head))
    warnings: list[str] = []
    if values and not isinstance(config, Config):
        settled, fit = _untied(fit, origin, settled, notes, warnings, may=origin.unties or known is None)
    elif copies := [name for names in fit.chosen.values() for name in names[:-1]]:
        notes.append(f"copies of tied tensors, taken as equal: {', '.join(copies)}")
    return Opened(fit, origin, settled, notes, warnings, told)


def folder_of(path: Path) -> Path:
    """Return the folder in which a checkpoint lies."""
    return path if path.is_dir() else path.parent


def _renamed(folder: Path, origin: Origin) -> dict[str, Path]:
    """Return the files of a tokenizer that are called otherwise: our name -> the file, where there is but one."""
    found: dict[str, Path] = {}
    for pattern, name in origin.renamed.items():
        files = sorted(path for path in folder.iterdir() if re.fullmatch(pattern, path.name) and path.is_file())
        found |= {name: files[0]} if len(files) == 1 else {}
    return found


def read_side(path: Path) -> dict[str, Keys]:
    """Read the JSON files beside the weights that tell something of the model.

    Raises:
        ConfigError: if one is no JSON object.
    """
    folder = folder_of(path)
    return {name: read_json_object(folder / name) for name in SIDE if (folder / name).is_file()}


def find_origin(
    path: Path, reader: Reader, side: Mapping[str, Keys], model_type: str | None = None, given: Keys | None = None
) -> tuple[Origin, Seen]:
    """Find out whose tensors these are.

    Args:
        model_type: the family, if it is known.

    Raises:
        WeightError: if no origin knows them.
    """
    for origin in ORIGINS:
        names = {plain: name for name, plain in origin.plain(reader).items()}
        shapes = {plain: reader[name].shape for plain, name in names.items()}
        seen = Seen(str(path), shapes, names, side, given or {}, reader.extras)
        if model_type in (None, origin.model_type) and reader.format in origin.formats and origin.recognise(seen):
            return origin, seen
    got = ", ".join(list(reader)[:4]) or "none"
    family = model_type or "a known family"
    raise WeightError(f"{path}: tensors must be those of {family} under the names of a known origin, got {got}")


def _derived(origin: Origin, seen: Seen) -> Derived:
    """Derive a config; shapes that no model has make none, and files that hold other things than they should."""
    try:
        return origin.derive(seen)
    except XLError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        what = "a config must follow from the tensors and what lies beside"
        raise ConfigError(f"{seen.where}: {what}, got some that make none ({error}); give a config.json") from error


def _on_averages(reader: Reader) -> list[str]:
    averaged = [name for name in reader if name.endswith(AVERAGED)]
    return [f"took the moving averages of {len(averaged)} variables, not their last values"] if averaged else []


def _beside(path: Path, side: Mapping[str, Keys], given: Keys) -> Config | None:
    if "config.json" not in side:
        return None
    return config_from_dict(side["config.json"], str(folder_of(path) / "config.json"), **given)


def _head_of(config: Config, origin: Origin, seen: Seen, head: str | Head | None) -> Head:
    if isinstance(head, Head):
        return head
    heads = {each.name: each for each in family_of(config).heads}
    named = [name.removeprefix("TF") for name in config.architectures or ()]
    name = (
        head.removeprefix("TF") if head else next((name for name in named if name in heads), origin.head(seen, config))
    )
    if name not in heads:
        find_head_by_name(name)
        raise ConfigError(f"{seen.where}: head must be one of {', '.join(heads)}, got {name!r}")
    return heads[name]


def _untied(
    fit: Fit, origin: Origin, config: Config, notes: list[str], warnings: list[str], may: bool
) -> tuple[Config, Fit]:
    """Hold copies of tied tensors against each other, and untie those that differ where that is the origin's way."""
    differing = _differing(fit)
    if differing and may:
        apart = {name for pair in differing for name in pair}
        aliases = [alias for alias in fit.ties if any(place.name in apart for place in fit.places[alias])]
        config = origin.untied(config, aliases)
        fit = Fit(fit.path, fit.reader, origin, config, fit.head)
    lost = _differing(fit) if differing else []
    notes += [
        f"{fit.files[one]} and {fit.files[used]} differ: untied" for one, used in differing if (one, used) not in lost
    ]
    for other, used in lost:
        done = f"used {fit.files[used]}, as transformers does; the other's numbers are lost"
        warnings.append(f"{fit.files[other]} and {fit.files[used]} differ, although the config ties them: {done}")
    return config, fit


def _differing(fit: Fit) -> list[tuple[str, str]]:
    """Return the copies that hold other numbers than the tensor that counts, each with that."""
    return [pair for name in fit.chosen for pair in fit.differing(name, finite=False)]


def _require_whole(fit: Fit) -> None:
    info, wrong = fit.info, []
    if missing := info.missing_keys + info.new_head_keys:
        wrong.append(f"missing: {listing(missing)}")
    if info.unexpected_keys:
        wrong.append(f"unexpected: {listing(info.unexpected_keys)}")
    if info.mismatched_keys:
        shapes = [f"{name} {list(theirs)} for {list(ours)}" for name, theirs, ours in info.mismatched_keys]
        wrong.append(f"other shapes: {listing(shapes)}")
    if wrong:
        hint = "; choose the head that it has" if info.new_head_keys else ""
        raise WeightError(f"{fit.path}: tensors must fit {fit.head.name}, got {'; '.join(wrong)}{hint}")


def listing(names: list[str], most: int = 12) -> str:
    """Return names as a list, and the number of those for which there is no room."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _accounts(fit: Fit) -> list[Account]:
    """Say of every tensor what became of it."""
    sources = {place.name: name for names in fit.chosen.values() for name in names[-1:] for place in fit.places[name]}
    copies = {
        place.name: (name, fit.places[names[-1]][0].name)
        for name, names in fit.chosen.items()
        for other in names[:-1]
        for place in fit.places[other]
    }
    wrong = dict.fromkeys(fit.info.unexpected_keys, f"{fit.head.name} has no place for it")
    wrong |= {fit.files[full]: f"must have shape {list(ours)}" for full, _, ours in fit.info.mismatched_keys}
    found = []
    for full, name in fit.files.items():
        entry = fit.reader[name]
        if full in sources:
            into = tuple(dict.fromkeys(fit.ties.get(part, part) for part in fit.recipes[full].parts))
            found.append(Account(name, entry, "split" if len(into) > 1 else "used", into))
        elif full in copies:
            first, other = copies[full]
            found.append(Account(name, entry, "tied", (first,), f"a copy of {fit.files[other]}"))
        elif name in wrong:
            found.append(Account(name, entry, "unexpected", (), wrong[name]))
        else:
            reason = fit.weights.why_ignored(full) or f"of a head that {fit.head.name} does not have"
            found.append(Account(name, entry, "ignored", (), reason))
    aside = (Account(name, entry, "ignored", (), "not the model's") for name, entry in fit.reader.aside.items())
    return [*found, *aside]
