"""Rows of a batch by where their answers come from, and the answers in the batch's order again: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import pyarrow as pa

P = TypeVar("P")


@dataclass(frozen=True, kw_only=True)
class Division(Generic[P]):
    """Which rows of a batch are answered already, and which have to be.

    Args:
        places: Where the stored answers are that come out, each once.
        new: Positions of the rows to compute: of equal ones the first.
        rows: Positions of the rows that come out.
        sources: For each of `rows`, its answer: a number of `places`, or the number of them all plus one of `new`.
    """

    places: tuple[P, ...]
    new: tuple[int, ...]
    rows: tuple[int, ...]
    sources: tuple[int, ...]

    @property
    def stored(self) -> list[bool]:
        """For each of `rows`, whether its answer was there before."""
        return [source < len(self.places) for source in self.sources]


def divide(keys: Sequence[bytes], found: Sequence[P | None], *, yield_stored: bool = True) -> Division[P]:
    """Decide what has to be computed.

    Args:
        keys: Of the rows; equal ones share an answer.
        found: Where the answer to each row is, None if it is nowhere.
        yield_stored: Whether rows with stored answers come out, too.
    """
    places: dict[bytes, P] = {}
    new: dict[bytes, int] = {}
    for position, (key, place) in enumerate(zip(keys, found, strict=True)):
        if place is not None:
            places.setdefault(key, place)
        else:
            new.setdefault(key, position)
    rows = [position for position, key in enumerate(keys) if yield_stored or key in new]
    if not yield_stored:
        places = {}
    number = {key: place for place, key in enumerate([*places, *new])}
    return Division(
        places=tuple(places.values()),
        new=tuple(new.values()),
        rows=tuple(rows),
        sources=tuple(number[keys[position]] for position in rows),
    )


def merged(division: Division[P], stored: pa.Table | None, new: pa.Table | None, schema: pa.Schema) -> pa.Table:
    """The answers of the rows that come out, in the batch's order.

    Args:
        division: From `divide`.
        stored: Answers of `division.places`, None if there are none.
        new: Answers of `division.new`, None if there are none.
        schema: Columns that come out.
    """
    parts = [table.select(schema.names).cast(schema) for table in (stored, new) if table is not None]
    if not parts:
        return schema.empty_table()
    return taken(pa.concat_tables(parts), division.sources)


def taken(table: pa.Table, rows: Sequence[int]) -> pa.Table:
    """Some rows of a table, in this order."""
    return table.take(pa.array(rows, pa.int64()))  # typed, for there may be none
