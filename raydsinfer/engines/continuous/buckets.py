"""Sizes that decode steps are captured for: pure."""

from __future__ import annotations

import bisect
from collections.abc import Sequence


def batch_buckets(max_running: int) -> list[int]:
    """Batch sizes to capture, ascending: close together where a row more or less matters.

    None is below 2: one row costs as much as two, and compiled layers would be compiled once more for it.

    Args:
        max_running: Most rows of a step; the last size, if it is 2 or more.
    """
    sizes = [2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, max_running + 1, 64)]
    return [size for size in sizes if size < max_running] + [max(2, max_running)]


def fitting(buckets: Sequence[int], size: int) -> int | None:
    """The smallest bucket that holds `size`; None if none does."""
    place = bisect.bisect_left(buckets, size)
    return buckets[place] if place < len(buckets) else None


def length_bucket(longest: int, max_tokens: int) -> int:
    """The length that padded attention is captured for: the next power of two from 128 on, at most `max_tokens`.

    Args:
        longest: Tokens that the longest row sees.
        max_tokens: Tokens of the longest possible sequence.
    """
    size = 128
    while size < longest:
        size *= 2
    return max(longest, min(size, max_tokens))
