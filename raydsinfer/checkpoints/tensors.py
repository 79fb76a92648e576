"""A tensor on disk, and the part of a tensor that a rank keeps: cut, compared, named."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

# By torch's name of the dtype: its name in safetensors files, and bytes of one element.
_DTYPES = {
    "bool": ("BOOL", 1),
    "uint8": ("U8", 1),
    "int8": ("I8", 1),
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e5m2": ("F8_E5M2", 1),
    "int16": ("I16", 2),
    "uint16": ("U16", 2),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
    "int32": ("I32", 4),
    "uint32": ("U32", 4),
    "float32": ("F32", 4),
    "int64": ("I64", 8),
    "uint64": ("U64", 8),
    "float64": ("F64", 8),
}

FORMAT_NAMES = {dtype: name for dtype, (name, _) in _DTYPES.items()}
"""What safetensors files call a dtype, by torch's name of it."""

ITEM_BYTES = {dtype: num_bytes for dtype, (_, num_bytes) in _DTYPES.items()}
"""Bytes of one element, by torch's name of the dtype."""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor in one file.

    Args:
        name: Its name in the file.
        file: Name of the file, within the directory of the weights.
        dtype: torch's name of the dtype, like ``float16``.
        shape: Its shape in the file.
    """

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Slice:
    """Which indices along one dimension a rank keeps, in the order in which it keeps them.

    Args:
        dim: The dimension; None means the whole tensor.
        ranges: Half-open ranges of indices, ``(start, stop)``; empty with `dim` means nothing is kept.
    """

    dim: int | None = None
    ranges: tuple[tuple[int, int], ...] = ()

    def shape_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the part, given the shape of the whole."""
        if self.dim is None:
            return tuple(shape)
        kept = sum(stop - start for start, stop in self.ranges)
        return (*shape[: self.dim], kept, *shape[self.dim + 1 :])


WHOLE = Slice()
"""The slice that keeps everything."""


def merged(part: Slice, shape: Sequence[int]) -> Slice:
    """The same part in its shortest form, so that equal parts compare equal.

    Args:
        part: Of a tensor.
        shape: Of that tensor.
    """
    if part.dim is None:
        return WHOLE
    ranges: list[tuple[int, int]] = []
    for start, stop in part.ranges:
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], stop)
        elif start < stop:
            ranges.append((start, stop))
    return WHOLE if ranges == [(0, shape[part.dim])] else Slice(part.dim, tuple(ranges))


def is_whole(part: Slice, shape: Sequence[int]) -> bool:
    """Whether a part is all of a tensor, in its order."""
    return merged(part, shape) == WHOLE


def within(part: Slice, cut: Slice, shape: Sequence[int]) -> Slice | None:
    """A part of a tensor, as a part of what was cut out of that tensor.

    Args:
        part: Of the tensor.
        cut: Another part of it, which is stored.
        shape: Of the tensor.

    Returns:
        Which part of the stored one it is; None if it is not all in there.
    """
    if merged(part, shape) == merged(cut, shape):
        return WHOLE
    if is_whole(cut, shape):
        return part
    if part.dim != cut.dim:
        return None
    firsts = itertools.accumulate((stop - start for start, stop in cut.ranges), initial=0)
    stored = [(start, stop, first) for (start, stop), first in zip(cut.ranges, firsts, strict=False)]
    ranges = []
    for start, stop in part.ranges:
        at = start
        while at < stop:
            found = next(((begin, end, first) for begin, end, first in stored if begin <= at < end), None)
            if found is None:
                return None
            begin, end, first = found
            upto = min(stop, end)
            ranges.append((first + at - begin, first + upto - begin))
            at = upto
    return Slice(part.dim, tuple(ranges))


def fits(part: Slice, shape: Sequence[int]) -> bool:
    """Whether a tensor has such a part."""
    if part.dim is None:
        return True
    return part.dim < len(shape) and all(0 <= start < stop <= shape[part.dim] for start, stop in part.ranges)


def in_words(part: Slice) -> str:
    """A part for people: ``indices 0 to 4 along dimension 1``."""
    if part.dim is None:
        return "the whole"
    ranges = ", ".join(f"{start} to {stop}" for start, stop in part.ranges) or "none"
    return f"indices {ranges} along dimension {part.dim}"
