"""Keys as numbers in arrays: 24 bytes each, sorted, searched where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raydsinfer.rows.keys import KEY_BYTES

ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("part", "<u4"), ("row", "<u4")])
"""A key, as two numbers, and where its row is. In `row` the highest bit says that the row failed."""

FAILED = np.uint32(1 << 31)
_KEY = np.dtype([("high", ">u8"), ("low", ">u8")])  # big-endian: numbers are in the order of the keys' bytes

Entries = npt.NDArray[Any]
"""(keys,) of `ENTRY`."""

Numbers = npt.NDArray[Any]


def key_numbers(keys: Sequence[bytes]) -> tuple[Numbers, Numbers]:
    """The two halves of keys, each (keys,) of uint64.

    Raises:
        ValueError: A key has another size than `KEY_BYTES`.
    """
    if any(len(key) != KEY_BYTES for key in keys):
        raise ValueError(f"keys have {KEY_BYTES} bytes")
    numbers = np.frombuffer(b"".join(keys), _KEY)
    return numbers["high"].astype("<u8"), numbers["low"].astype("<u8")


def entries_of(keys: Sequence[bytes], failed: Sequence[bool] | npt.NDArray[Any]) -> Entries:
    """The entries of a part's rows, sorted by key; their part's number is left 0.

    Args:
        keys: In the order of the rows.
        failed: Whether each row failed.
    """
    entries = np.zeros(len(keys), ENTRY)
    entries["high"], entries["low"] = key_numbers(keys)
    entries["row"] = np.arange(len(keys), dtype=np.uint32) | np.where(failed, FAILED, np.uint32(0))
    return unique(entries)


def unique(entries: Entries) -> Entries:
    """The entries sorted by key, each key once: an answer goes before a failure, a later part before an earlier."""
    order = np.lexsort((-entries["part"].astype(np.int64), entries["row"] >= FAILED, entries["low"], entries["high"]))
    ordered = entries[order]
    first = np.ones(len(ordered), bool)
    first[1:] = (ordered["high"][1:] != ordered["high"][:-1]) | (ordered["low"][1:] != ordered["low"][:-1])
    return ordered[first]


def bucket_of(high: Numbers, num_bits: int) -> Numbers:
    """Which bucket keys are in, by their first bits; (keys,) of int64."""
    return (high >> np.uint64(64 - num_bits)).astype(np.int64) if num_bits else np.zeros(len(high), np.int64)


@dataclass(frozen=True)
class Bucket:
    """Sorted entries, field by field, as they lie in a file: a search reads the pages that it needs.

    Args:
        high: First halves of the keys, ascending.
        low: Second halves.
        part: Number of the part.
        row: Number of the row, with `FAILED`.
    """

    high: Numbers
    low: Numbers
    part: Numbers
    row: Numbers

    @classmethod
    def over(cls, buffer: Any, num_rows: int) -> Bucket:
        """A bucket over the bytes of a file, which are not copied.

        Args:
            buffer: What `bucket_bytes` made, or a memory map of it.
            num_rows: Its entries.
        """
        starts = (("<u8", 0), ("<u8", 8), ("<u4", 16), ("<u4", 20))
        fields = [np.frombuffer(buffer, dtype, count=num_rows, offset=num_rows * start) for dtype, start in starts]
        return cls(*fields)

    def entries(self) -> Entries:
        """All of it, in memory."""
        entries = np.empty(len(self.high), ENTRY)
        for name in ENTRY.names or ():
            entries[name] = getattr(self, name)
        return entries

    def search(self, high: Numbers, low: Numbers) -> Numbers:
        """Positions of keys, (keys,) of int64; -1 for those that are not there."""
        found = np.full(len(high), -1, np.int64)
        at = np.searchsorted(self.high, high)
        todo = np.arange(len(high))
        # One round, but for different keys whose first halves are equal.
        while len(todo := todo[at[todo] < len(self.high)]):
            todo = todo[self.high[at[todo]] == high[todo]]
            hit = self.low[at[todo]] == low[todo]
            found[todo[hit]] = at[todo[hit]]
            todo = todo[~hit]
            at[todo] += 1
        return found


def bucket_bytes(entries: Entries) -> bytes:
    """What a bucket's file holds, of sorted entries."""
    return b"".join(np.ascontiguousarray(entries[name]).tobytes() for name in ENTRY.names or ())
