"""The errors that a caller can meet, one kind for each thing that can be wrong.

Every message reads `<where>: <what> must <condition>, got <value>[; <what to do>]`.
"""

import difflib
from collections.abc import Iterable


class XLError(ValueError):
    """Whatever is wrong with what a caller gave us: a value, a shape, a file."""


class ConfigError(XLError):
    """A configuration key or value that no model of the family can have."""


class ShapeError(XLError):
    """An array whose axes, values or number do not fit the contract of the call."""


class WeightError(XLError):
    """Tensors that a model needs and does not get, or gets and does not need."""


class FormatError(XLError):
    """A file or folder that is not what it claims to be."""


class TokenizerError(XLError):
    """Text, ids or vocabulary that a tokenizer cannot work with."""


class ParityError(XLError):
    """Two computations that should agree and do not."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the nearest known name, or nothing if none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
