"""Reading a slice of an input file: what a read task does."""

from __future__ import annotations

from typing import IO, Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from raydsinfer.cli.formats import Format
from raydsinfer.cli.rows_of_text import Row, text_rows


def read_slice(path: str, format: Format, start: int, num_rows: int, columns: list[str]) -> list[Row]:
    """Rows of a file from a place that `scan` found; a column that a row lacks is None.

    Args:
        path: The file, as fsspec understands it.
        format: How it is written.
        start: First byte of the first row; for Parquet the row's number.
        num_rows: How many rows.
        columns: What to read.
    """
    with fsspec.open(path, "rb") as stream:
        if format == "parquet":
            rows = _parquet_rows(stream, start, num_rows, columns)
        else:
            source = text_rows(path, format, stream, start)
            rows = [row for _, (_, row) in zip(range(num_rows), source, strict=False)]
    return [{name: row.get(name) for name in columns} for row in rows]


def _parquet_rows(stream: IO[bytes], start: int, num_rows: int, columns: list[str]) -> list[Row]:
    file = pq.ParquetFile(stream)
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    firsts = np.cumsum([0, *sizes])
    groups = [g for g in range(len(sizes)) if firsts[g + 1] > start and firsts[g] < start + num_rows]
    have = [name for name in columns if name in file.schema_arrow.names]
    table = file.read_row_groups(groups, columns=have)
    rows: list[Row] = table.slice(start - int(firsts[groups[0]]), num_rows).to_pylist()
    return rows


class SliceReader:
    """The function of the read tasks: a block that names a slice becomes the rows of it.

    Args:
        format: How the files are written.
        columns: What to read.
    """

    # Ray Data shows this name in its plan.
    __name__ = "read"

    def __init__(self, format: Format, columns: list[str]) -> None:
        self._format, self._columns = format, columns

    def read(self, block: pd.DataFrame) -> dict[str, np.ndarray[Any, Any]]:
        """Read the one slice that `block` names.

        Args:
            block: One row with ``path``, ``start`` and ``num_rows``.
        """
        (named,) = block.to_dict("records")
        rows = read_slice(named["path"], self._format, named["start"], named["num_rows"], self._columns)
        return {name: _objects([row[name] for row in rows]) for name in self._columns}


def _objects(values: list[Any]) -> np.ndarray[Any, Any]:
    # Objects keep integers beside None, which a data frame would turn into floats. Filled one by one,
    # because numpy takes lists of equal length for a second dimension.
    column = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        column[place] = value
    return column
