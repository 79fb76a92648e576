"""Comparing and naming parts of tensors."""

from __future__ import annotations

from collections.abc import Sequence

from raydsinfer.checkpoints.tensors import WHOLE, Slice


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
