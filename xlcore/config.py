"""The base of every configuration: named fields with rules, known aliases, JSON both ways.

A value is checked when it enters, by constructor, assignment or JSON alike, so that no model ever sees a
configuration which it could not run.
"""

import copy
import json
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, dataclass_transform

from xlcore.errors import ConfigError, did_you_mean
from xlcore.files import made_folder, named_folder
from xlcore.frozen import frozen, thawed

# A rule takes what a caller gave and returns what is stored, or raises `Unfit` with the condition not met.
Rule = Callable[[Any], Any]


class Unfit(Exception):
    """What a value must be and is not; the config adds where and which.

    Args:
        condition: what must be.
        place: of the entry that does not fit, if it is one of several: `[0]`.
        entry: that entry.
    """

    def __init__(self, condition: str, place: str = "", entry: Any = None) -> None:
        super().__init__(condition)
        self.place, self.entry = place, entry


class Field:
    """One key of a configuration: its default and the rule for its values."""

    def __init__(self, default: Any, rule: Rule) -> None:
        self.default = default
        self.rule = rule
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, config: "Config | None", owner: type) -> Any:
        return self if config is None else config._values[self.name]

    def __set__(self, config: "Config", value: Any) -> None:
        config.update(**{self.name: value})


def field(default: Any, rule: Rule) -> Any:
    """Declare a key of a configuration; typed `Any` so that the annotation beside it speaks."""
    return Field(default, rule)


# What published config.json files carry beside the keys of a family: kept, given back, without effect on the maths.
CARRIED = frozenset(
    """
    _name_or_path name_or_path _commit_hash _attn_implementation_autoset attn_implementation _attn_implementation
    transformers_version torch_dtype dtype torchscript use_bfloat16 tf_legacy_loss pruned_heads use_cache auto_map
    chunk_size_feed_forward is_encoder_decoder is_decoder cross_attention_hidden_size add_cross_attention
    tie_encoder_decoder max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size output_past
    encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores return_dict_in_generate
    forced_bos_token_id forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens
    begin_suppress_tokens finetuning_task tokenizer_class prefix sep_token_id cls_token_id mask_token_id unk_token_id
    decoder_start_token_id task_specific_params gradient_checkpointing is_composition quantization_config
    eos_token_ids keys_to_ignore_at_inference xla_device ignore_keys_at_rope_validation
    """.split()
)


# ------------------------------------------------------------------------------------------------ rules for values


def whole(value: Any) -> int:
    """Take any whole number; a bool is none."""
    if isinstance(value, bool):
        raise Unfit("be a whole number")
    try:
        return operator.index(value)
    except TypeError:
        raise Unfit("be a whole number") from None


def at_least(least: int) -> Rule:
    """Make the rule for whole numbers from `least` on."""
    condition = "be positive" if least == 1 else f"be at least {least}"

    def rule(value: Any) -> int:
        number = whole(value)
        if number < least:
            raise Unfit(condition)
        return number

    return rule


positive = at_least(1)


def real(low: float = -math.inf, high: float = math.inf) -> Rule:
    """Make the rule for finite numbers between `low` and `high`."""

    def rule(value: Any) -> float:
        if isinstance(value, bool | str) or not hasattr(value, "__float__"):
            raise Unfit("be a number")
        try:
            number = float(value)
        except OverflowError:
            raise Unfit("be finite") from None
        if not math.isfinite(number) or not low <= number <= high:
            raise Unfit(f"lie in [{low:g}, {high:g}]" if math.isfinite(number) else "be finite")
        return number

    return rule


probability = real(0.0, 1.0)


def boolean(value: Any) -> bool:
    """Take True and False, also as 0 and 1, which old files carry."""
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    raise Unfit("be true or false")


def text(value: Any) -> str:
    """Take a string."""
    if not isinstance(value, str):
        raise Unfit("be a string")
    return value


def one_of(*choices: Any) -> Rule:
    """Make the rule for a closed list of values."""

    def rule(value: Any) -> Any:
        if value not in choices:
            raise Unfit(f"be one of {', '.join(map(repr, choices))}")
        return value

    return rule


def optional(inner: Rule) -> Rule:
    """Make a rule that lets None pass too."""
    return lambda value: None if value is None else inner(value)


def list_of(inner: Rule) -> Rule:
    """Make the rule for a list whose every entry keeps the inner rule; None is the empty list. The list is copied."""

    def rule(value: Any) -> list[Any]:
        if isinstance(value, str | Mapping) or not (value is None or hasattr(value, "__iter__")):
            raise Unfit("be a list")
        return [_entry(inner, number, entry) for number, entry in enumerate(() if value is None else value)]

    return rule


def one_or_several(inner: Rule) -> Rule:
    """Make the rule for what keeps the inner rule, or a list of such."""
    return lambda value: list_of(inner)(value) if isinstance(value, list | tuple) else inner(value)


def _entry(inner: Rule, place: Any, entry: Any) -> Any:
    try:
        return inner(entry)
    except Unfit as unfit:
        raise Unfit(str(unfit), f"[{place!r}]", entry) from None


def label_names(value: Any) -> dict[int, str]:
    """Take the names of labels by their number; JSON has the numbers as strings."""
    if not isinstance(value, Mapping) or not all(str(key).isdecimal() for key in value):
        raise Unfit("map label numbers to names")
    names = {int(key): str(name) for key, name in value.items()}
    if len(names) < len(value):
        raise Unfit("name each label once")
    return names


def label_numbers(value: Any) -> dict[str, int]:
    """Take the numbers of labels by their name."""
    if not isinstance(value, Mapping):
        raise Unfit("map label names to numbers")
    return {str(name): _entry(whole, name, number) for name, number in value.items()}


def carried_value(value: Any) -> Any:
    """Take what a config.json file can hold."""
    try:
        json.dumps(value, allow_nan=False)
        return copy.deepcopy(value)
    except (TypeError, ValueError, RecursionError):
        raise Unfit("be what JSON can hold") from None


def fitted(where: str, name: str, value: Any, rule: Rule) -> Any:
    """Return a value as its rule stores it.

    Raises:
        ConfigError: says what the value must be and is not.
    """
    try:
        return rule(value)
    except Unfit as unfit:
        got = unfit.entry if unfit.place else value
        raise ConfigError(f"{where}: {name}{unfit.place} must {unfit}, got {got!r}") from None


# ------------------------------------------------------------------------------------------------------- the base


@dataclass_transform(kw_only_default=True, field_specifiers=(field,))
class Config:
    """The keys that all families share, and the machinery under their own.

    Unknown keys are an error that names the nearest known one; keys that published files are known to carry
    (`CARRIED`) are kept as attributes and written back. `update` changes several keys that depend on each other.

    Raises:
        ConfigError: for an unknown key, or a value against its rule; the config is left as it was.
    """

    model_type: ClassVar[str] = ""
    aliases: ClassVar[dict[str, str]] = {}
    without_effect: ClassVar[frozenset[str]] = frozenset()
    fields: ClassVar[dict[str, Field]] = {}

    tie_word_embeddings: bool = field(True, boolean)
    output_attentions: bool = field(False, boolean)
    output_hidden_states: bool = field(False, boolean)
    return_dict: bool = field(True, boolean)
    bos_token_id: int | None = field(None, optional(whole))
    eos_token_id: int | None = field(None, optional(whole))
    pad_token_id: int | None = field(None, optional(whole))
    architectures: list[str] | None = field(None, optional(list_of(text)))
    problem_type: str | None = field(
        None,
        optional(one_of("regression", "single_label_classification", "multi_label_classification")),
    )
    id2label: dict[int, str] = field({0: "LABEL_0", 1: "LABEL_1"}, label_names)
    label2id: dict[str, int] = field({"LABEL_0": 0, "LABEL_1": 1}, label_numbers)

    def __init_subclass__(cls) -> None:
        cls.fields = {
            name: value
            for base in reversed(cls.__mro__)
            for name, value in vars(base).items()
            if isinstance(value, Field)
        }

    def __init__(self, /, **keys: Any) -> None:
        self.__dict__["_values"] = {name: copy.copy(each.default) for name, each in self.fields.items()}
        self.__dict__["_carried"] = {}
        self.update(**keys)

    def update(self, /, **keys: Any) -> None:
        """Change several keys at once; either all of them fit and hold, or nothing changes."""
        values, carried = dict(self._values), dict(self._carried)
        for key, value in self._spelled_out(keys).items():
            if key in self.fields:
                values[key] = self._checked(key, value)
            elif key in CARRIED or key in self.without_effect:
                carried[key] = self._checked(key, value, carried_value)
            else:
                known = (*self.fields, *self.aliases, "num_labels")
                raise ConfigError(f"{self._where}: unknown key {key!r}{did_you_mean(key, known)}")
        self.complete(values, keys)
        self.check(values)
        values = {key: frozen(value, (self._where, key)) for key, value in values.items()}
        self.__dict__.update(_values=values, _carried=carried)

    def complete(self, values: dict[str, Any], given: Mapping[str, Any]) -> None:
        """Derive the values that follow from given ones and were not given themselves; families may add to it."""
        count = given.get("num_labels")
        if count is not None and "id2label" in given:
            self.require(count == len(values["id2label"]), "num_labels", "be the number of names in id2label", count)
        if count is not None and len(values["id2label"]) != positive(count):
            values["id2label"] = {number: f"LABEL_{number}" for number in range(count)}
            values["label2id"] = {name: number for number, name in values["id2label"].items()}
        elif "id2label" in given and "label2id" not in given:
            values["label2id"] = {name: number for number, name in values["id2label"].items()}

    def check(self, values: dict[str, Any]) -> None:
        """Raise `ConfigError` where values contradict each other; families say how."""

    def require(self, holds: bool, key: str, condition: str, value: Any) -> None:
        """Raise the one kind of error for a value that does not meet its condition."""
        if not holds:
            raise ConfigError(f"{self._where}: {key} must {condition}, got {value!r}")

    @property
    def num_labels(self) -> int:
        """The number of labels, which is the number of their names."""
        return len(self.id2label)

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of the axes that the config knows, by their letter in the alphabet of `xlcore.shapes`."""
        named = {"D": "hidden_size", "F": "feed_forward_size", "H": "head_dim", "L": "num_layers", "N": "num_heads"}
        found = {letter: getattr(self, name) for letter, name in (named | {"V": "vocab_size"}).items()}
        return found | {"K": self.num_labels}

    @property
    def _where(self) -> str:
        return type(self).__name__

    def _spelled_out(self, keys: Mapping[str, Any]) -> dict[str, Any]:
        """Replace aliases by the names that they stand for."""
        spelled: dict[str, Any] = {}
        for key, value in keys.items():
            name = self.aliases.get(key, key)
            if name in spelled and spelled[name] != value:
                other = next(each for each in keys if self.aliases.get(each, each) == name)
                raise ConfigError(f"{self._where}: {key} must equal {other} (one key, two names), got {value!r}")
            spelled[name] = value
        if "num_labels" in spelled:
            self._checked("num_labels", spelled.pop("num_labels"), positive)
        if spelled.pop("model_type", self.model_type) != self.model_type:
            raise ConfigError(f"{self._where}: model_type must be {self.model_type!r}, got {keys['model_type']!r}")
        return spelled

    def _checked(self, key: str, value: Any, rule: Rule | None = None) -> Any:
        return fitted(self._where, key, value, rule or self.fields[key].rule)

    def __getattr__(self, name: str) -> Any:
        values = self.__dict__
        if name in type(self).aliases:
            return getattr(self, type(self).aliases[name])
        if name in values.get("_carried", ()):
            return values["_carried"][name]
        raise AttributeError(f"{self._where} has no key {name!r}{did_you_mean(name, self.fields)}")

    def __setattr__(self, name: str, value: Any) -> None:
        self.update(**{name: value})

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # a config can change

    def __repr__(self) -> str:
        return f"{self._where}({', '.join(f'{key}={value!r}' for key, value in self._differing())})"

    def _differing(self) -> Iterator[tuple[str, Any]]:
        yield from ((key, value) for key, value in self._values.items() if value != self.fields[key].default)
        yield from self._carried.items()

    # ---------------------------------------------------------------------------------------------- JSON both ways

    def to_dict(self) -> dict[str, Any]:
        """Return every key of the family, and of the shared ones those off their default, as JSON can hold them."""
        kept = {
            key: thawed(value)
            for key, value in self._values.items()
            if self.fields[key] is not vars(Config).get(key) or value != self.fields[key].default
        }
        return {"model_type": self.model_type, **kept, **copy.deepcopy(self._carried)}

    def to_json_string(self) -> str:
        """Return the text of a config.json file."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, keys: Mapping[str, Any], **overrides: Any) -> Self:
        """Make a config from the keys of a config.json file; `overrides` win."""
        config = cls(**keys)
        config.update(**overrides)
        return config

    @classmethod
    def from_json_file(cls, path: str | Path, **overrides: Any) -> Self:
        """Make a config from a config.json file."""
        return cls.from_dict(read_json_object(path), **overrides)

    @classmethod
    def from_pretrained(cls, path: str | Path, **overrides: Any) -> Self:
        """Make a config from a folder that holds config.json, or from such a file."""
        path = Path(path)
        return cls.from_json_file(path / "config.json" if path.is_dir() else path, **overrides)

    def to_json_file(self, path: str | Path) -> None:
        """Write a config.json file."""
        Path(path).write_text(self.to_json_string(), encoding="utf-8")

    def save_pretrained(self, path: str | Path) -> None:
        """Write config.json into a folder, which is made if it is missing."""
        folder = made_folder(named_folder("save_pretrained", path))
        self.to_json_file(folder / "config.json")

    def copy(self, /, **overrides: Any) -> Self:
        """Return a config of its own with some keys changed."""
        other = copy.deepcopy(self)
        other.update(**overrides)
        return other


def read_json_object(path: str | Path) -> dict[str, Any]:
    """Read a JSON file whose content is one object.

    Raises:
        ConfigError: if the file cannot be read, is no JSON, or holds something else.
    """
    try:
        keys = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: must be a readable file, got {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: must hold JSON, got {error}") from error
    if not isinstance(keys, dict):
        raise ConfigError(f"{path}: must hold a JSON object, got {type(keys).__name__}")
    return keys
