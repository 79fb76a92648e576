"""A tensor on disk, and the part of a tensor that a rank keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ITEM_BYTES = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int16": 2,
    "uint16": 2,
    "float16": 2,
    "bfloat16": 2,
    "int32": 4,
    "uint32": 4,
    "float32": 4,
    "int64": 8,
    "uint64": 8,
    "float64": 8,
}
"""Bytes of one element, by torch's name of the dtype."""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor in one file.

    Args:
        name: Its name in the file.
        file: Name of the file, within the directory of the weights.
        dtype: torch's name of the dtype, like ``float16``.
        shape: Its shape in the file.
        offset: Bytes from the start of the file to its first; None in a pickle, where that says nothing.
    """

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    offset: int | None = None

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
