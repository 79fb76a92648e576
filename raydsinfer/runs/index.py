"""Where answered rows are: looked up by key in memory-mapped files, read from their parts."""

from __future__ import annotations

import mmap
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raydsinfer.errors import RunDirectoryError
from raydsinfer.runs.building import RECORD, bucket_file, read_record
from raydsinfer.runs.entries import ENTRY, FAILED, Bucket, bucket_of, key_numbers
from raydsinfer.runs.files import RunFiles
from raydsinfer.runs.names import INDEX
from raydsinfer.runs.parts import KEY_COLUMN, PartReader
from raydsinfer.runs.records import IndexRecord


@dataclass(frozen=True)
class Place:
    """Where a row is.

    Args:
        part: Number of its part in the index.
        row: Number of the row in the part.
        failed: Whether it has an error instead of an answer.
        key: Its key, which is compared with the one beside the row when it is read.
    """

    part: int
    row: int
    failed: bool
    key: bytes


class RunIndex:
    """The rows that a run directory held when the index was built. Picklable and small; thread-safe.

    Each process opens it at the first use. On a file system of this machine the index is mapped where it is, and
    processes of a node share it; else a process maps a copy that has no name and ends with the process.

    Args:
        files: Of the run directory.
        name: The index's id; None: there is nothing in it.
        retry_failed: Whether `find` passes over rows that failed.
    """

    def __init__(self, files: RunFiles, name: str | None, *, retry_failed: bool = False) -> None:
        self._files, self._name, self._retry_failed = files, name, retry_failed
        self._lock = threading.Lock()
        self._record: IndexRecord | None = None
        self._buckets: dict[int, Bucket] = {}
        self._parts = PartReader(files)

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self._files, self._name, self._retry_failed)

    def __len__(self) -> int:
        """Rows in it, those that failed included."""
        return self._opened().num_rows if self._name else 0

    @property
    def num_errors(self) -> int:
        """Rows in it that failed."""
        return self._opened().num_errors if self._name else 0

    @property
    def parts(self) -> Sequence[str]:
        """Ids of the parts, by number."""
        return self._opened().parts if self._name else ()

    def find(self, keys: Sequence[bytes]) -> list[Place | None]:
        """Where rows are.

        Args:
            keys: Theirs.

        Returns:
            For each key its place; None if it is not there, or failed and is to be tried again.

        Raises:
            RunDirectoryError: The index cannot be read.
        """
        places = self._places(keys)
        return [None if place and place.failed and self._retry_failed else place for place in places]

    def num_failed(self, keys: Sequence[bytes]) -> int:
        """How many of these rows are there and failed, whether or not they are to be tried again."""
        return sum(place is not None and place.failed for place in self._places(keys))

    def read(self, places: Sequence[Place], columns: Sequence[str] | None = None) -> pa.Table:
        """The stored columns of rows.

        Args:
            places: As `find` gave them, at least one.
            columns: Which columns; None: all.

        Returns:
            A row a place, in order.

        Raises:
            RunDirectoryError: A part is not there any more, or not as it was written.
        """
        of_part: dict[int, list[int]] = {}
        for position, place in enumerate(places):
            of_part.setdefault(place.part, []).append(position)
        tables = [self._rows(part, [places[i] for i in positions]) for part, positions in of_part.items()]
        if columns is not None:
            tables = [table.select(list(columns)) for table in tables]
        back = np.argsort(np.concatenate(list(of_part.values())))
        return pa.concat_tables(tables, promote_options="permissive").take(pa.array(back))

    def read_part(self, number: int) -> pa.Table:
        """Those rows of a part that are the ones that the index gives, so that each key comes once."""
        table = self._parts.read(self.parts[number])
        places = self._places(table[KEY_COLUMN].to_pylist())
        own = [place is not None and (place.part, place.row) == (number, row) for row, place in enumerate(places)]
        return table.drop_columns([KEY_COLUMN]).filter(pa.array(own, pa.bool_()))

    def _rows(self, number: int, places: Sequence[Place]) -> pa.Table:
        part = self.parts[number]
        table = self._parts.read(part)
        rows = [place.row for place in places]
        if max(rows) < len(table):
            taken = table.take(pa.array(rows))
            if taken[KEY_COLUMN].to_pylist() == [place.key for place in places]:
                return taken.drop_columns([KEY_COLUMN])
        raise self._gone(f"it does not fit part {part}")

    def _places(self, keys: Sequence[bytes]) -> list[Place | None]:
        places: list[Place | None] = [None] * len(keys)
        if not self._name or not keys:
            return places
        high, low = key_numbers(keys)
        buckets = bucket_of(high, self._opened().num_bits)
        for number in np.unique(buckets):
            asked = np.flatnonzero(buckets == number)
            bucket = self._bucket(int(number))
            at = bucket.search(high[asked], low[asked])
            for i, j in zip(asked[at >= 0], at[at >= 0], strict=True):
                row = bucket.row[j]
                places[i] = Place(int(bucket.part[j]), int(row & ~FAILED), bool(row & FAILED), keys[i])
        return places

    def _opened(self) -> IndexRecord:
        with self._lock:
            if self._record is None:
                self._record = read_record(self._files, self._name or "")
            if self._record is None:
                raise self._gone(RECORD)
            return self._record

    def _bucket(self, number: int) -> Bucket:
        num_rows = self._opened().bucket_rows[number]
        with self._lock:
            if number not in self._buckets:
                self._buckets[number] = Bucket.over(self._mapped(number, num_rows * ENTRY.itemsize), num_rows)
            return self._buckets[number]

    def _mapped(self, number: int, num_bytes: int) -> Any:
        if not num_bytes:
            return b""
        name = bucket_file(self._name or "", number)
        try:
            if self._files.local is not None:
                with open(self._files.local / name, "rb") as stream:
                    return _map(stream, num_bytes)
            with tempfile.TemporaryFile() as stream:  # without a name: nothing to remove, whoever dies
                stream.write(self._files.get(name))
                stream.flush()
                return _map(stream, num_bytes)
        except (OSError, ValueError):
            raise self._gone(name) from None

    def _gone(self, reason: str) -> RunDirectoryError:
        return RunDirectoryError(
            path=f"{self._files.shown}/{INDEX}/{self._name}",
            reason=f"the index is not as it was written ({reason})",
            hint="Remove that folder and start again: it is made anew.",
        )


def _opened(files: RunFiles, name: str | None, retry_failed: bool) -> RunIndex:
    return RunIndex(files, name, retry_failed=retry_failed)


def _map(stream: Any, num_bytes: int) -> mmap.mmap:
    return mmap.mmap(stream.fileno(), num_bytes, access=mmap.ACCESS_READ)
