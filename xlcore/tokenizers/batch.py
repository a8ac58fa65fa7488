"""What a tokenizer returns, and what makes rows of ids a batch: truncation, padding, tensors."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, TypeVar

import numpy as np

from xlcore.errors import TokenizerError

Padding = Literal["longest", "max_length", "do_not_pad"]
Truncation = Literal["longest_first", "only_first", "only_second", "do_not_truncate"]
PADDINGS: dict[object, Padding] = {
    True: "longest", False: "do_not_pad", None: "do_not_pad",
    "longest": "longest", "max_length": "max_length", "do_not_pad": "do_not_pad",
}  # fmt: skip
TRUNCATIONS: dict[object, Truncation] = {
    True: "longest_first", False: "do_not_truncate", None: "do_not_truncate", "longest_first": "longest_first",
    "only_first": "only_first", "only_second": "only_second", "do_not_truncate": "do_not_truncate",
}  # fmt: skip
#: Above this a maximal length means that the model has none.
UNLIMITED = int(1e20)
#: kind of tensor -> module, the extra that installs it, and its function that makes one.
_FRAMEWORKS = {"pt": ("torch", "torch", "from_numpy"), "tf": ("tensorflow", "tf", "constant")}

T = TypeVar("T")
log = logging.getLogger(__name__)


class BatchEncoding(dict[str, Any]):
    """A dict whose entries are attributes too: `encoding.input_ids` is `encoding["input_ids"]`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def data(self) -> dict[str, Any]:
        """Return the entries as a plain dict."""
        return dict(self)

    def convert_to_tensors(self, tensor_type: str | None = None, prepend_batch_axis: bool = False) -> "BatchEncoding":
        """Make every entry an array ("np") or a tensor ("pt", "tf") in place, and return self."""
        if tensor_type is not None:
            make = tensor_maker(tensor_type)
            for key, value in self.items():
                self[key] = to_tensor(make, key, [value] if prepend_batch_axis else value)
        return self

    def to(self, device: Any) -> "BatchEncoding":
        """Move the tensors of PyTorch to a device in place, and return self."""
        for key, value in self.items():
            self[key] = value.to(device) if hasattr(value, "to") else value
        return self


def tensor_maker(kind: str) -> Callable[[Any], Any]:
    """Return the function that makes a tensor of a kind. Raises TokenizerError for another or a missing kind."""
    if kind == "np":
        return np.array
    if kind in _FRAMEWORKS:
        module, extra, function = _FRAMEWORKS[kind]
        try:
            make: Callable[[Any], Any] = getattr(import_module(module), function)
        except ImportError as error:
            raise TokenizerError(
                f"return_tensors: {kind!r} must have {module}, got none; pip install 'xlbridge[{extra}]'"
            ) from error
        return make
    raise TokenizerError(f"Tokenizer: return_tensors must be 'np', 'pt' or 'tf', got {kind!r}")


def to_tensor(make: Callable[[Any], Any], key: str, value: Any) -> Any:
    """Return a list of numbers or of rows as a tensor. Raises TokenizerError for rows of unequal length."""
    try:
        # a detour by numpy fixes the type: int64 on every system, for empty rows too
        array = np.array(value, dtype=np.int64)
    except (ValueError, TypeError) as error:
        raise TokenizerError(
            f"return_tensors: the rows of {key} must be numbers of one length, got others; "
            "pass padding=True and truncation=True"
        ) from error
    return array if make is np.array else make(array)


@dataclass(frozen=True)
class Lengths:
    """How rows are cut and filled: what `padding`, `truncation` and `max_length` come to."""

    padding: Padding
    truncation: Truncation
    max_length: int | None
    multiple: int | None


UNCHANGED = Lengths("do_not_pad", "do_not_truncate", None, None)


def require_sides(where: str, padding_side: Any, truncation_side: Any) -> None:
    """Refuse sides that there are not, which an attribute takes as it is set. Raises TokenizerError."""
    for name, side in (("padding_side", padding_side), ("truncation_side", truncation_side)):
        if side not in ("left", "right"):
            raise TokenizerError(f"{where}: {name} must be 'left' or 'right', got {side!r}")


def resolve(
    padding: object, truncation: object, max_length: int | None, multiple: int | None, model_max_length: int
) -> Lengths:
    """Return the strategies that the arguments of a call name. Raises TokenizerError for arguments that do not fit."""
    if padding is False and not truncation and max_length is None and multiple is None:
        return UNCHANGED
    if truncation is None and padding is False and max_length is not None:
        truncation = True  # a maximal length alone asks for it, as users of the API know
    if not isinstance(padding, str | bool | None) or padding not in PADDINGS:
        raise TokenizerError(f"Tokenizer: padding must be a bool or one of {_names(PADDINGS)}, got {padding!r}")
    if not isinstance(truncation, str | bool | None) or truncation not in TRUNCATIONS:
        raise TokenizerError(
            f"Tokenizer: truncation must be a bool or one of {_names(TRUNCATIONS)}, got {truncation!r}"
        )
    pads, cuts = PADDINGS[padding], TRUNCATIONS[truncation]
    for name, value in (("max_length", max_length), ("pad_to_multiple_of", multiple)):
        if value is not None and value <= 0:
            raise TokenizerError(f"Tokenizer: {name} must be positive, got {value}")
    if max_length is None and model_max_length < UNLIMITED and (pads == "max_length" or cuts != "do_not_truncate"):
        max_length = model_max_length
    if max_length is None and pads == "max_length":
        raise TokenizerError("padding: 'max_length' must have a length, got no max_length and a model without one")
    cut_and_filled = max_length is not None and cuts != "do_not_truncate" and pads != "do_not_pad"
    if cut_and_filled and multiple is not None and max_length is not None and max_length % multiple:
        raise TokenizerError(
            f"Tokenizer: max_length must be a multiple of pad_to_multiple_of ({multiple}), got {max_length}"
        )
    return Lengths(pads, cuts, max_length, multiple)


def _names(table: Mapping[object, str]) -> str:
    return ", ".join(sorted(repr(key) for key in table if isinstance(key, str)))


def cuts(first: int, second: int | None, remove: int, truncation: Truncation, empties: bool = False) -> tuple[int, int]:
    """Return how many tokens go from a text of length `first` and from its pair, to remove `remove` of them.

    "longest_first" takes one at a time from the longer of the two, from the second where they are equal. A text that
    has no token more than are to go is left whole, with a warning, as users of the API know it; or it is emptied
    (`empties`), as transformers 5 does.
    """
    if truncation == "do_not_truncate" or remove <= 0:
        return 0, 0
    if truncation == "longest_first" and second is not None:
        a, b = first, second
        for _ in range(min(remove, a + b)):
            a, b = (a - 1, b) if a > b else (a, b - 1)
        return first - a, second - b
    if truncation == "only_second" and second is None:
        raise TokenizerError("truncation: 'only_second' must have a second text, got none")
    length = second if truncation == "only_second" and second is not None else first
    if empties:
        remove = min(remove, length)
    elif remove >= length:
        log.warning(
            "truncation: %r must leave a token of %d, got %d to remove; nothing is cut", truncation, length, remove
        )
        return 0, 0
    return (0, remove) if truncation == "only_second" else (remove, 0)


def cut(row: Sequence[T], count: int, side: str) -> list[T]:
    """Return a row without `count` items at one side."""
    if not count:
        return list(row)
    return list(row[count:]) if side == "left" else list(row[: len(row) - count])


def cut_off(row: Sequence[T], count: int, side: str, stride: int) -> list[T]:
    """Return the items that `cut` removes, and the `stride` items beside them."""
    window = min(len(row), count + stride) if count else 0
    return list(row[:window]) if side == "left" else list(row[len(row) - window :])


def truncate_pair(
    ids: list[T],
    pair: list[T] | None,
    remove: int,
    truncation: Truncation,
    side: str,
    stride: int = 0,
    empties: bool = False,
) -> tuple[list[T], list[T] | None, list[T]]:
    """Return a text and its pair without `remove` tokens, and those removed with `stride` more from what is left.

    The removed ones are empty for a pair cut "longest_first": they come from both.
    """
    first, second = cuts(len(ids), None if pair is None else len(pair), remove, truncation, empties)
    over = cut_off(ids, first, side, stride) if first else cut_off(pair or [], second, side, stride)
    if truncation == "longest_first" and pair is not None:
        over = []
    return cut(ids, first, side), None if pair is None else cut(pair, second, side), over


def padded_length(lengths: Sequence[int], how: Lengths) -> int | None:
    """Return the length to which rows are filled, None where they are not."""
    if how.padding == "do_not_pad":
        return None
    length = max(lengths, default=0) if how.padding == "longest" else how.max_length or 0
    return -(-length // how.multiple) * how.multiple if how.multiple else length


def pad_rows(rows: Mapping[str, list[list[Any]]], fill: Mapping[str, Any], length: int, side: str) -> dict[str, Any]:
    """Fill the rows of each entry that `fill` has a value for; longer rows and other entries stay as they are."""
    padded: dict[str, Any] = dict(rows)
    for key, value in fill.items():
        if key in rows:
            padded[key] = [_fill(row, value, length, side) for row in rows[key]]
    return padded


def _fill(row: list[Any], value: Any, length: int, side: str) -> list[Any]:
    missing = [value] * (length - len(row))
    return missing + list(row) if side == "left" else list(row) + missing


def kind_of(value: Any) -> str | None:
    """Return "np", "pt" or "tf" for an array, a tensor, or a list of them; None for lists of numbers."""
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return {"numpy": "np", "torch": "pt", "tensorflow": "tf"}.get(type(value).__module__.partition(".")[0])


def to_lists(value: Any) -> Any:
    """Return arrays and tensors, also inside a list, as lists of numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "numpy"):
        return value.numpy().tolist()
    return [to_lists(item) for item in value] if isinstance(value, list) else value
