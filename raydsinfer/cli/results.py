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
from raydsinfer.rows.batches import UnreadableCell
from raydsinfer.rows.columns import output_schema


def result_schema(types: Types, keep: Sequence[str], generation: GenerationConfig) -> pa.Schema:
    """Columns of the result: the kept ones, then what was generated.

    Where the rows of a kept column are of different kinds, it becomes text, JSON where it was none.

    Args:
        types: Columns of the input.
        keep: Input columns to keep, in order.
        generation: Settings of the call.
    """
    kept = [pa.field(name, written_as(types[name])) for name in keep]
    return pa.schema([*kept, *output_schema(generation)])


def written_as(kind: Any) -> pa.DataType:
    """The type that an input column has in a file, by the type that was found: None for several kinds."""
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
            column = typed(column.to_pylist(), wanted, mixed)
        elif column.type != wanted.type:
            column = _cast(column, wanted.type)
        columns.append(column)
    return pa.table(columns, schema=schema)


def typed(cells: Sequence[Any], wanted: pa.Field, mixed: Sequence[str]) -> pa.Array:
    """A column of an input, as it is written.

    Args:
        cells: As they were read.
        wanted: Name and type, from `written_as`.
        mixed: Columns whose cells become text.
    """
    if wanted.name in mixed:
        return pa.array([_text(cell) for cell in cells], wanted.type)
    return pa.array([None if isinstance(cell, UnreadableCell) else cell for cell in cells], wanted.type)


def _text(cell: Any) -> str | None:
    return cell if cell is None or isinstance(cell, str) else to_json(cell)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> Any:
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return typed(column.to_pylist(), pa.field("", kind), ())


@dataclass
class Tally:
    """What the result adds up to so far.

    Args:
        num_rows: Rows.
        num_stored: Of these, rows that an earlier run had answered.
        num_prompt_tokens: Tokens of all prompts.
        num_output_tokens: New tokens of all rows.
        num_stored_tokens: Of these, tokens of an earlier run.
        errors: Rows that were not answered, by kind of error.
    """

    num_rows: int = 0
    num_stored: int = 0
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_stored_tokens: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def num_errors(self) -> int:
        """Rows that were not answered."""
        return self.errors.total()

    def add(self, table: pa.Table, stored: Sequence[bool] | None = None) -> None:
        """Count the rows of a conformed table.

        Args:
            table: The rows.
            stored: For each row, whether an earlier run had answered it; None: none.
        """
        self.num_rows += table.num_rows
        self.num_prompt_tokens += sum(filter(None, table.column("num_prompt_tokens").to_pylist()))
        new = [_sum(cell) for cell in table.column("num_output_tokens").to_pylist()]
        self.num_output_tokens += sum(new)
        if stored is not None:
            self.num_stored += sum(stored)
            self.num_stored_tokens += sum(tokens for tokens, before in zip(new, stored, strict=True) if before)
        # The text of a row's error begins with its kind: see `errors.RowError`.
        self.errors.update(error.split(":", 1)[0] for error in table.column("error").to_pylist() if error)


def _sum(num_tokens: Any) -> int:
    """Of all sequences of a row, if it has several."""
    return sum(filter(None, num_tokens)) if isinstance(num_tokens, list) else num_tokens or 0
