"""Result tables: their schema, known before the first row, and what they add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from raydsinfer.cli.scan import Types
from raydsinfer.cli.writers import to_json
from raydsinfer.config import GenerationConfig
from raydsinfer.rows.columns import output_schema


def result_schema(types: Types, keep: Sequence[str], generation: GenerationConfig) -> pa.Schema:
    """Columns of the result: the kept ones, then what was generated.

    Where the rows of a kept column are of different kinds, it becomes text, JSON where it was none.

    Args:
        types: Columns of the input.
        keep: Input columns to keep, in order.
        generation: Settings of the call.
    """
    kept = [pa.field(name, _written_as(types[name])) for name in keep]
    return pa.schema([*kept, *output_schema(generation)])


def _written_as(kind: Any) -> pa.DataType:
    return pa.string() if kind is None or pa.types.is_null(kind) else kind


def conformed(table: pa.Table, schema: pa.Schema, mixed: Sequence[str]) -> pa.Table:
    """The same rows with exactly these columns and types.

    Args:
        table: A block of results as Ray Data gives it; trips through pandas change types.
        schema: From `result_schema`.
        mixed: Columns whose cells become text.
    """
    columns = []
    for wanted in schema:
        column = table.column(wanted.name)
        if wanted.name in mixed:
            column = pa.array([_text(cell) for cell in column.to_pylist()], wanted.type)
        elif column.type != wanted.type:
            column = _cast(column, wanted.type)
        columns.append(column)
    return pa.table(columns, schema=schema)


def _text(cell: Any) -> str | None:
    return cell if cell is None or isinstance(cell, str) else to_json(cell)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> Any:
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.array(column.to_pylist(), kind)


@dataclass
class Tally:
    """What the result adds up to so far."""

    num_rows: int = 0
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def num_errors(self) -> int:
        """Rows that were not answered."""
        return self.errors.total()

    def add(self, table: pa.Table) -> None:
        """Count the rows of a conformed table."""
        self.num_rows += table.num_rows
        self.num_prompt_tokens += sum(filter(None, table.column("num_prompt_tokens").to_pylist()))
        for new in table.column("num_output_tokens").to_pylist():
            self.num_output_tokens += sum(filter(None, new)) if isinstance(new, list) else new or 0
        # The text of a row's error begins with its kind: see `errors.RowError`.
        self.errors.update(error.split(":", 1)[0] for error in table.column("error").to_pylist() if error)
