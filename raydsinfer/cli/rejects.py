"""The rows that were not answered, in a file of their own: as they came in, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from raydsinfer.cli.formats import Format
from raydsinfer.cli.input_rows import InputRows
from raydsinfer.cli.inputs import Input
from raydsinfer.cli.outputs import Sink, check_free, open_output, output_format
from raydsinfer.cli.results import typed, written_as
from raydsinfer.errors import InvalidSettingError

ERROR_COLUMNS = ("error_class", "error_message", "num_attempts")
"""What a reject has besides its input columns, and instead of those of the same name."""


@dataclass(frozen=True, kw_only=True)
class RejectsFile:
    """Where the rejects go.

    Args:
        path: File, directory of part files, or URL.
        format: How it is written.
    """

    path: str
    format: Format


def rejects_file(path: str | None) -> RejectsFile | None:
    """What the flag asks for.

    Raises:
        InvalidSettingError: Rejects cannot go there.
        OutputError: The path does not say how to write.
    """
    if path is None:
        return None
    format = output_format(path, None)
    if path == "-" or format == "txt":
        raise InvalidSettingError(name="--rejects", value=path, expected="a .jsonl, .csv or .parquet file")
    return RejectsFile(path=path, format=format)


class Rejects:
    """Writes the rejects of result tables.

    Args:
        rows: The input.
        sink: Where to.
    """

    def __init__(self, rows: Input, sink: Sink) -> None:
        self._rows, self._sink = InputRows(rows), sink
        self._schema = rejects_schema(rows)
        self._mixed = [name for name in rows.types if rows.types[name] is None]

    def add(self, first: int, errors: Sequence[str], attempts: Sequence[int]) -> None:
        """Write those among some results, which are in the order of the input.

        Args:
            first: Number of the first row in the input.
            errors: Of each row; empty if it is fine.
            attempts: How often each was sent to a gang.
        """
        failed = [place for place, error in enumerate(errors) if error]
        if not failed:
            return
        found = self._rows.take([first + place for place in failed])
        rows = [
            row | dict(zip(ERROR_COLUMNS, (*_parts(errors[place]), attempts[place]), strict=True))
            for row, place in zip(found, failed, strict=True)
        ]
        columns = [typed([row[field.name] for row in rows], field, self._mixed) for field in self._schema]
        self._sink.write(pa.table(columns, schema=self._schema))


def rejects_schema(rows: Input) -> pa.Schema:
    """Columns of the rejects: all of the input, then the reason."""
    kept = [pa.field(name, written_as(kind)) for name, kind in rows.types.items() if name not in ERROR_COLUMNS]
    kinds = (pa.string(), pa.string(), pa.int64())
    return pa.schema([*kept, *(pa.field(name, kind) for name, kind in zip(ERROR_COLUMNS, kinds, strict=True))])


@contextmanager
def open_rejects(file: RejectsFile | None, rows: Input, *, overwrite: bool) -> Iterator[Rejects | None]:
    """The rejects of a run: they appear when the context ends well, also if there are none.

    Args:
        file: Where they go; None: nowhere.
        rows: The input.
        overwrite: Whether something that is there already may be replaced.

    Raises:
        OutputError: Something is there, or it cannot be written.
    """
    if file is None:
        yield None
        return
    with open_output(file.path, file.format, rejects_schema(rows), overwrite=overwrite) as sink:
        yield Rejects(rows, sink)


def check_rejects_free(file: RejectsFile | None, *, overwrite: bool) -> None:
    """Check that the rejects could take their place; nothing is made.

    Raises:
        OutputError: Something is there that may not be replaced.
    """
    if file is not None:
        check_free(file.path, file.format, overwrite=overwrite)


def _parts(error: str) -> tuple[str, str]:
    """Class and message: the text of a row's error begins with its kind, see `errors.RowError`."""
    kind, _, message = error.partition(": ")
    return (kind, message) if message else ("", error)
