"""Reading a slice of an input file: what a read task does."""

from __future__ import annotations

from typing import IO, Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.cli.formats import Format
from raydsinfer.cli.rows_of_text import Row, text_rows
from raydsinfer.errors import InputError, summary_of
from raydsinfer.rows.batches import cells
from raydsinfer.unwrap import raised_in_one_piece


def read_slice(path: str, format: Format, start: int, num_rows: int, columns: list[str]) -> list[Row]:
    """Rows of a file from a place that `scan` found; a column that a row lacks is None.

    Args:
        path: The file, as fsspec understands it.
        format: How it is written.
        start: First byte of the first row; for Parquet the row's number.
        num_rows: How many rows.
        columns: What to read.

    Raises:
        InputError: The file is not what it was when it was looked at, or some of it cannot be read.
    """
    try:
        with fsspec.open(path, "rb") as stream:
            if format == "parquet":
                rows = _parquet_rows(stream, start, num_rows, columns)
            else:
                source = text_rows(path, format, stream, start)
                rows = [row for _, (_, row) in zip(range(num_rows), source, strict=False)]
    except (OSError, ValueError, ArithmeticError, IndexError) as error:  # Arrow's are among them
        where = f"{num_rows} rows from {'row' if format == 'parquet' else 'byte'} {start} on"
        reason = f"{where} are not readable as {format} ({without_secrets(summary_of(error))})"
        raise InputError(path=without_secrets(path), reason=reason, hint="Check the file.") from error
    if len(rows) != num_rows:
        reason = f"it changed while it was read: {len(rows)} of {num_rows} rows are left from {start} on"
        raise InputError(path=without_secrets(path), reason=reason, hint="Start again once nobody writes to it.")
    return [{name: row.get(name) for name in columns} for row in rows]


def _parquet_rows(stream: IO[bytes], start: int, num_rows: int, columns: list[str]) -> list[Row]:
    file = pq.ParquetFile(stream)
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    firsts = np.cumsum([0, *sizes])
    groups = [g for g in range(len(sizes)) if firsts[g + 1] > start and firsts[g] < start + num_rows]
    have = [name for name in columns if name in file.schema_arrow.names]
    table = file.read_row_groups(groups, columns=have)
    return rows_of_table(table.slice(start - int(firsts[groups[0]]), num_rows))


def rows_of_table(table: pa.Table) -> list[Row]:
    """Rows of Python values; a cell that is not what its type says is an `UnreadableCell`, and costs no other."""
    columns = {name: cells(table[name]) for name in table.column_names}
    return [{name: column[row] for name, column in columns.items()} for row in range(len(table))]


class SliceReader:
    """The function of the read tasks: a block that names a slice becomes the rows of it.

    Args:
        format: How the files are written.
        columns: What to read.
        number_column: Column to make, of the rows' numbers among all rows of the input; empty for none.
    """

    # Ray Data shows this name in its plan.
    __name__ = "read"

    def __init__(self, format: Format, columns: list[str], number_column: str = "") -> None:
        self._format, self._columns, self._number_column = format, columns, number_column

    def read(self, block: pd.DataFrame) -> dict[str, np.ndarray[Any, Any]]:
        """Read the one slice that `block` names.

        Args:
            block: One row with ``path``, ``start``, ``num_rows`` and ``first``.
        """
        (named,) = block.to_dict("records")
        with raised_in_one_piece():
            rows = read_slice(named["path"], self._format, named["start"], named["num_rows"], self._columns)
        read = {name: _objects([row[name] for row in rows]) for name in self._columns}
        if self._number_column:
            read[self._number_column] = np.arange(named["first"], named["first"] + len(rows))
        return read


def _objects(values: list[Any]) -> np.ndarray[Any, Any]:
    # Objects keep integers beside None, which a data frame would turn into floats. Filled one by one,
    # because numpy takes lists of equal length for a second dimension.
    column = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        column[place] = value
    return column
