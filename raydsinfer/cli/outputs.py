"""Where results go: a file, a directory of part files, or standard output; whole or not at all."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import IO, Protocol

import pyarrow as pa

from raydsinfer.cli.formats import SUFFIXES, Format, format_of
from raydsinfer.cli.staging import Staging
from raydsinfer.cli.writers import Writer, open_writer
from raydsinfer.errors import OutputError, UnsupportedError

# Rows of a part file: a few megabytes of text, so that a reader has files to share among its tasks.
ROWS_PER_PART = 10_000


class Sink(Protocol):
    """Takes result tables in order."""

    def write(self, table: pa.Table) -> None:
        """Write all rows of a table, which has the schema that the sink was opened with."""
        ...


def output_format(path: str, named: Format | None) -> Format:
    """How to write OUTPUT: as named, else by suffix; JSON lines to standard output, Parquet parts to a directory.

    Raises:
        OutputError: Neither tells.
    """
    if named:
        if path == "-" and named == "parquet":
            raise OutputError(path="-", reason="Parquet cannot be streamed to standard output", hint="Name a file.")
        return named
    if path == "-":
        return "jsonl"
    if is_directory(path):
        return "parquet"
    found = format_of(path)
    if found is None:
        hint = f"Use one of {', '.join(SUFFIXES)}, say --format, or end the path with '/' for a directory."
        raise OutputError(path=path, reason="its suffix names no format", hint=hint)
    return found


def is_directory(path: str) -> bool:
    """Whether OUTPUT means a directory of part files: no suffix, or a slash at the end."""
    return path.endswith("/") or "." not in path.rstrip("/").rsplit("/", 1)[-1].lstrip(".")


@contextmanager
def open_output(path: str, format: Format, schema: pa.Schema, *, overwrite: bool) -> Iterator[Sink]:
    """A sink whose rows appear under `path` all at once, when the context ends well.

    Until then they are in a sibling whose name begins with a dot; that is removed if the context
    ends with an exception. The sibling is made at the start, so an output that cannot be written
    fails before any work is done. Standard output has no such protection: what was written is seen.

    Args:
        path: File, directory, URL of either, or ``-``.
        format: How to write.
        schema: Columns of all tables.
        overwrite: Whether something that is there already may be replaced.

    Raises:
        OutputError: Something is there, or it cannot be written.
        UnsupportedError: The format has no place for the columns.
    """
    if format == "txt" and not pa.types.is_string(schema.field("output").type):
        raise UnsupportedError(
            what="text output with num_return_sequences above 1",
            why="a line holds one completion",
            instead="Write .jsonl or .parquet.",
        )
    if path == "-":
        writer = open_writer(format, sys.stdout.buffer, schema)
        sink = _Flushing(writer, sys.stdout.buffer)
        with redirect_stdout(sys.stderr):  # libraries print, and log, to where they should not
            yield sink
        writer.close()
        return
    directory = is_directory(path)
    with Staging(path, overwrite=overwrite, part_suffix=f".{format}" if directory else None) as staging:
        parts = _Parts(staging, format, schema, rows_per_part=ROWS_PER_PART if directory else None)
        try:
            yield parts
        finally:
            parts.close()


def check_free(path: str, format: Format, *, overwrite: bool) -> None:
    """Check that an output could take its place; nothing is made.

    Raises:
        OutputError: Something is there that may not be replaced.
    """
    if path != "-":
        Staging(path, overwrite=overwrite, part_suffix=f".{format}" if is_directory(path) else None).check_free()


class _Flushing:
    def __init__(self, writer: Writer, stream: IO[bytes]) -> None:
        self._writer, self._stream = writer, stream

    def write(self, table: pa.Table) -> None:
        try:
            self._writer.write(table)
            self._stream.flush()
        except BrokenPipeError as error:
            raise OutputError(path="-", reason="whoever read standard output has gone") from error


class _Parts:
    """Files of a staged output: one, or one for every so many rows. Even no rows make one file."""

    def __init__(self, staging: Staging, format: Format, schema: pa.Schema, rows_per_part: int | None) -> None:
        self._staging, self._format, self._schema, self._rows_per_part = staging, format, schema, rows_per_part
        self._part, self._rows = 0, 0
        self._open()

    def _open(self) -> None:
        name = f"part-{self._part:05d}.{self._format}" if self._rows_per_part else None
        self._stream = self._staging.open(name)
        self._writer = open_writer(self._format, self._stream, self._schema)
        self._rows = 0

    def write(self, table: pa.Table) -> None:
        with self._staging.translated_errors():
            if self._rows_per_part and self._rows and self._rows + table.num_rows > self._rows_per_part:
                self.close()
                self._part += 1
                self._open()
            self._writer.write(table)
            self._rows += table.num_rows

    def close(self) -> None:
        with self._staging.translated_errors():
            self._writer.close()
            self._stream.close()
