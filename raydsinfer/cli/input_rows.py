"""Rows of the input once more, by their number, after they were answered."""

from __future__ import annotations

from collections.abc import Sequence

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from raydsinfer.cli.inputs import Input
from raydsinfer.cli.records import read_slice, rows_of_table
from raydsinfer.cli.rows_of_text import Row
from raydsinfer.cli.scan import ScannedFile


class InputRows:
    """Rows of the input by their number, as they are written there.

    Args:
        rows: The input.
    """

    def __init__(self, rows: Input) -> None:
        self._input, self._columns = rows, list(rows.types)
        self._group: tuple[str, int] = ("", -1)
        self._group_rows = pa.table({})

    def take(self, numbers: Sequence[int]) -> list[Row]:
        """Some rows, each with all columns.

        Args:
            numbers: Ascending, and near each other: what lies between is read too.
        """
        found: list[Row] = []
        first = 0
        for file in self._input.files:
            within = [number - first for number in numbers if first <= number < first + file.num_rows]
            if within:
                read = self._of_parquet if self._input.format == "parquet" else self._of_text
                found += read(file, within)
            first += file.num_rows
        return found

    def _of_text(self, file: ScannedFile, numbers: Sequence[int]) -> list[Row]:
        start, count = numbers[0], numbers[-1] - numbers[0] + 1
        rows = read_slice(file.path, self._input.format, file.offsets[start], count, self._columns)
        return [rows[number - start] for number in numbers]

    def _of_parquet(self, file: ScannedFile, numbers: Sequence[int]) -> list[Row]:
        found: list[Row] = []
        with fsspec.open(file.path, "rb") as stream:
            reader, first = pq.ParquetFile(stream), 0
            for group in range(reader.num_row_groups):
                size = reader.metadata.row_group(group).num_rows
                within = [number - first for number in numbers if first <= number < first + size]
                if within:
                    if self._group != (file.path, group):  # rows are asked for in order: one is enough
                        self._group, self._group_rows = (file.path, group), reader.read_row_group(group)
                    found += rows_of_table(self._group_rows.take(within))
                first += size
        return [{name: row.get(name) for name in self._columns} for row in found]
