"""Which columns are read and which come out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

from raydsinfer.config import GenerationConfig
from raydsinfer.errors import InvalidSettingError, MissingColumnError
from raydsinfer.rows.answers import LIST_COLUMNS, LOGPROBS_COLUMN, OUTPUT_COLUMNS, Answer, columns_of, columns_of_call
from raydsinfer.rows.batches import ARRAY_COLUMN
from raydsinfer.rows.request import Row

_TEXT_DTYPE = pd.Series([""]).dtype  # pandas 3 has one for texts, pandas 2 takes objects


@dataclass(frozen=True, kw_only=True)
class ReadColumns:
    """The columns of one batch that are read; empty where the batch has none.

    Args:
        prompt: Column of texts.
        messages: Column of conversations.
        generation: Column of settings.
    """

    prompt: str = ""
    messages: str = ""
    generation: str = ""

    @property
    def names(self) -> list[str]:
        """Those that there are."""
        return [name for name in (self.prompt, self.messages, self.generation) if name]

    def rows(self, cells: Mapping[str, Sequence[object]], num_rows: int) -> list[Row]:
        """The batch's rows.

        Args:
            cells: Column name → Python values.
            num_rows: Number of rows.
        """
        nothing = [None] * num_rows
        columns = [cells.get(name, nothing) for name in (self.prompt, self.messages, self.generation)]
        return [
            Row(prompt=prompt, messages=messages, generation=own)
            for prompt, messages, own in zip(*columns, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class InputColumns:
    """Names of the columns that a predictor looks for.

    Args:
        prompt: Column of texts.
        messages: Column of conversations.
        generation: Column of the rows' own settings.
    """

    prompt: str = "prompt"
    messages: str = "messages"
    generation: str = "generation"

    def choose(
        self, available: Sequence[str], feature_columns: Sequence[str] | None, keep_columns: Sequence[str] | None
    ) -> ReadColumns:
        """Decide which columns of a batch to read.

        Args:
            available: Names that the batch has.
            feature_columns: Names that may be read; None means all.
            keep_columns: Names that will be kept.

        Raises:
            MissingColumnError: A name is not available, or there is neither prompt nor messages.
            InvalidSettingError: A kept column would overwrite an output column.
        """
        check_columns(available, feature_columns, keep_columns)
        _check_once(available, [self.prompt, self.messages, self.generation, *(keep_columns or ())])
        readable = list(available) if feature_columns is None else list(feature_columns)
        # One array, or Ray's data set of one, is an array of prompts.
        prompt = ARRAY_COLUMN if readable == [ARRAY_COLUMN] else self.prompt
        if prompt not in readable and self.messages not in readable:
            wanted_by = f"prompt_column (there is no {self.messages!r} either)"
            raise MissingColumnError(missing=[self.prompt], available=readable, wanted_by=wanted_by)
        found = {name: name if name in readable else "" for name in (prompt, self.messages, self.generation)}
        return ReadColumns(prompt=found[prompt], messages=found[self.messages], generation=found[self.generation])


def check_columns(
    available: Sequence[str], feature_columns: Sequence[str] | None, keep_columns: Sequence[str] | None
) -> None:
    """Check that columns exist.

    Raises:
        MissingColumnError: One does not.
        InvalidSettingError: A text where a list of names belongs.
    """
    for wanted_by, names in (("feature_columns", feature_columns), ("keep_columns", keep_columns)):
        if isinstance(names, str) or not isinstance(names, Iterable | None):
            hint = f"Write [{names!r}]." if isinstance(names, str) else ""
            raise InvalidSettingError(name=wanted_by, value=names, expected="a list of names", hint=hint)
        if missing := [name for name in names or () if name not in available]:
            raise MissingColumnError(missing=missing, available=list(available), wanted_by=wanted_by)


def _check_once(available: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if list(available).count(name) > 1:
            raise InvalidSettingError(
                name="a column's name", value=name, expected="one column of that name", hint="Rename the others."
            )


def kept_names(
    keep_columns: Sequence[str] | None, generation: GenerationConfig | None = None, report_attempts: bool = False
) -> list[str]:
    """Columns to keep, each once.

    Args:
        keep_columns: As the call names them.
        generation: Settings of the call, which decide on the output columns; None: the columns that every call has.
        report_attempts: Whether the call asks for the column of attempts.

    Raises:
        InvalidSettingError: One has the name of an output column.
    """
    own = OUTPUT_COLUMNS if generation is None else columns_of_call(generation, report_attempts)
    names = list(dict.fromkeys(keep_columns or ()))
    if taken := [name for name in names if name in own]:
        raise InvalidSettingError(
            name="keep_columns",
            value=names,
            expected=f"names that the output does not have itself ({', '.join(own)})",
            hint=f"Rename {taken[0]!r} first, for example with Dataset.rename_columns.",
        )
    return names


def output_schema(generation: GenerationConfig, report_attempts: bool = False) -> pa.Schema:
    """Names and types of the output columns: they depend on the call, never on the rows."""
    kinds = {name: _kind(name) for name in columns_of_call(generation, report_attempts)}
    if generation.num_return_sequences > 1:
        kinds |= {name: pa.list_(kinds[name]) for name in LIST_COLUMNS if name in kinds}
    return pa.schema(kinds)


def output_table(answers: Sequence[Answer], generation: GenerationConfig, report_attempts: bool = False) -> pa.Table:
    """The output columns of a batch as an Arrow table."""
    columns = columns_of(answers, generation, report_attempts)
    return pa.table(columns, schema=output_schema(generation, report_attempts))


def output_frame(
    answers: Sequence[Answer], generation: GenerationConfig, index: Any, report_attempts: bool = False
) -> pd.DataFrame:
    """The output columns of a batch as a DataFrame.

    Args:
        answers: In the order of the rows.
        generation: Settings of the call.
        index: Index of the frame.
        report_attempts: Whether the call asks for the column of attempts.
    """
    columns = columns_of(answers, generation, report_attempts)
    kinds: dict[str, Any] = {name: "int64" if name.startswith("num_") else _TEXT_DTYPE for name in columns}
    kinds |= {LOGPROBS_COLUMN: object}
    if generation.num_return_sequences > 1:
        kinds |= dict.fromkeys(LIST_COLUMNS, object)
    # Said for each column, because of no rows pandas would make numbers.
    frame: pd.DataFrame = pd.DataFrame(
        {name: pd.Series(cells, index=index, dtype=kinds[name]) for name, cells in columns.items()}
    )
    return frame


def _kind(name: str) -> pa.DataType:
    if name == LOGPROBS_COLUMN:
        return pa.list_(pa.float32())
    return pa.int64() if name.startswith("num_") else pa.string()
