"""Whole tensors, a block at a time: laid in file order, cast and hashed, with never more than a block to spare."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from conversion.places import PAGE
from conversion.reading import room
from xlcore.errors import WeightError

Tensor = np.ndarray[Any, Any]

BLOCK = 16 << 20  # bytes
_CAST = 1 << 20  # values that are cast at a time, few enough to stay in a cache
_WIDE, _HIGH = 512, 512  # a matrix is turned in tiles of these sizes, for the same reason
_APART = 8  # packs by which rows are kept apart
# Several numbers at a time: a number of 8 bytes is turned as fast as one of 2.
_PACK = np.dtype(np.uint64)
_MOST_SLICES = 4096
_EVEN = 8  # rows are cut in multiples of it where there are so many
_PLAIN = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}
# The bits that are all set in NaN and infinity; to look at them takes half as long as to ask numpy.
_EXPONENTS = {np.dtype(np.float16): np.uint16(0x7C00), np.dtype(ml_dtypes.bfloat16): np.uint16(0x7F80)}


def blocks(array: Tensor, most: int = BLOCK) -> Iterator[memoryview]:
    """Yield the bytes of an array in C order, at most `most` at a time; each block holds until the next is asked for.

    An array that lies in that order is not copied.
    """
    array = np.atleast_1d(array)
    if array.flags.c_contiguous:
        flat = array.reshape(-1).view(np.uint8)
        yield from (flat[start : start + most].data for start in range(0, flat.nbytes, most))
        return
    held = room(min(most, array.nbytes)).view(array.dtype)
    for cut in cuts(array.shape, max(1, most // array.itemsize)):
        part = array[cut]
        block = held[: part.size]
        copy_into(block.reshape(part.shape), part)
        yield block.view(np.uint8).data


def cuts(shape: Sequence[int], most: int) -> Iterator[tuple[int | slice, ...]]:
    """Yield indices that cut an array, in C order, into parts of at most `most` values."""
    if not math.prod(shape):
        return
    width = math.prod(shape[1:])
    if width > most:
        for row in range(shape[0]):
            yield from ((row, *rest) for rest in cuts(shape[1:], most))
        return
    rows = max(1, most // width)
    rows -= rows % _EVEN if rows > _EVEN else 0
    yield from ((slice(start, start + rows),) for start in range(0, shape[0], rows))


def copy_into(to: Tensor, given: Tensor) -> None:
    """Copy an array whose axes may lie in any order into one in C order, in tiles where reading would jump about."""
    if plain := _PLAIN.get(given.itemsize):  # numbers that numpy moves fast, whatever they mean
        to, given = to.view(plain), given.view(plain)
    strides = [abs(stride) if size > 1 else math.inf for stride, size in zip(given.strides, given.shape, strict=True)]
    last = given.ndim - 1
    fast = strides.index(min(strides)) if strides else last
    others = [axis for axis in range(given.ndim) if axis not in (fast, last)]
    shape = [given.shape[axis] for axis in others]
    if fast == last or math.prod(shape) > _MOST_SLICES:
        np.copyto(to, given)
        return
    to, given = (np.moveaxis(each, others, range(len(others))) for each in (to, given))
    for index in np.ndindex(*shape):
        _turn(to[index], given[index])


def _turn(to: Tensor, given: Tensor) -> None:
    """Copy a matrix whose first axis is the fast one, tile by tile: packs of numbers are turned, then dealt to rows."""
    pack = _PACK.itemsize // given.itemsize
    packs = pack > 1 and given.strides[0] == given.itemsize
    turned = np.empty(_WIDE * _HIGH // max(pack, 1), _PACK)
    aside = np.empty((_HIGH, _WIDE // max(pack, 1) + _APART), _PACK) if given.strides[1] % PAGE == 0 else None
    for row in range(0, len(given), _WIDE):
        for column in range(0, given.shape[1], _HIGH):
            here = slice(row, row + _WIDE), slice(column, column + _HIGH)
            if packs and len(given[here]) % pack == 0:
                _turn_tile(to[here], given[here].T.view(_PACK), turned, aside)
            else:
                np.copyto(to[here], given[here])


def _turn_tile(to: Tensor, packed: Tensor, turned: Tensor, aside: Tensor | None) -> None:
    high, wide = packed.shape
    if aside is not None:  # rows that lie whole pages apart are in each other's way in a cache
        np.copyto(aside[:high, :wide], packed)
        packed = aside[:high, :wide]
    found = turned[: packed.size].reshape(wide, high)
    np.copyto(found, packed.T)
    pack = len(to) // wide
    numbers = found.view(to.dtype).reshape(wide, high, pack)
    np.copyto(to.reshape(wide, pack, high), numbers.transpose(0, 2, 1))  # a view: no axis but the first is cut


def sha256(array: Tensor) -> str:
    """Return the SHA-256 of an array's bytes, little-endian and in C order."""
    digest = hashlib.sha256()
    for block in blocks(array):
        digest.update(block)
    return digest.hexdigest()


def is_finite(array: Tensor) -> bool:
    """Tell whether an array holds neither NaN nor infinity, a part at a time."""
    if array.dtype.kind in "iub":
        return True
    mask = _EXPONENTS.get(array.dtype)
    for cut in cuts(np.atleast_1d(array).shape, _CAST):
        part = np.atleast_1d(array)[cut]
        if mask is None and not np.isfinite(part).all():
            return False
        if mask is not None and ((part.view(np.uint16) & mask) == mask).any():
            return False
    return True


@dataclass(frozen=True)
class Rounding:
    """What casting did to finite values.

    Attributes:
        largest: the largest difference from the value before.
        lost: how many values that were not 0 became 0.
    """

    largest: float = 0.0
    lost: int = 0

    def __or__(self, other: "Rounding") -> "Rounding":
        return Rounding(max(self.largest, other.largest), self.lost + other.lost)


def cast_into(to: Tensor, given: Tensor, name: str) -> Rounding:
    """Copy an array into one of the same shape that may have another dtype; say how much was rounded.

    Raises:
        WeightError: if a finite value is too large for the dtype.
    """
    if to.dtype == given.dtype:
        copy_into(to, given)
        return Rounding()
    found = Rounding()
    for cut in cuts(np.atleast_1d(given).shape, _CAST):
        found |= _cast(np.atleast_1d(to)[cut], np.atleast_1d(given)[cut], name)
    return found


def _cast(to: Tensor, given: Tensor, name: str) -> Rounding:
    with np.errstate(over="ignore"):
        np.copyto(to, given, casting="unsafe")
    if np.can_cast(given.dtype, to.dtype, "safe"):
        return Rounding()
    wide = np.float64 if given.dtype.itemsize > 4 else np.float32
    before, after = given.astype(wide, copy=False), to.astype(wide)
    if not np.isfinite(after).all():
        finite = np.isfinite(before)
        before, after = before[finite], after[finite]
        if not np.isfinite(after).all():
            got = float(np.abs(before).max())
            hint = "choose --dtype bfloat16 or float32"
            raise WeightError(f"{name}: values must fit into {to.dtype}, got {got:g}; {hint}")
    lost = int(np.count_nonzero(before)) - int(np.count_nonzero(after))
    np.subtract(after, before, out=after)
    return Rounding(float(np.abs(after, out=after).max(initial=0.0)), lost)
