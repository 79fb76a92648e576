"""Rows into an open stream, by format."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from raydsinfer.cli.formats import Format


class Writer(Protocol):
    """Writes tables of one schema to a stream; rows are not held back beyond one table."""

    def write(self, table: pa.Table) -> None:
        """Write all rows of a table."""
        ...

    def close(self) -> None:
        """Finish the format; the stream stays open."""
        ...


class ParquetWriter:
    """One row group a table."""

    def __init__(self, stream: IO[bytes], schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(stream, schema)

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table)

    def close(self) -> None:
        self._writer.close()


class JsonLinesWriter:
    """One object a line, UTF-8."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def write(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            self._stream.write(to_json(row).encode() + b"\n")

    def close(self) -> None:
        pass


class CsvWriter:
    """A header and a line a row; lists and structures become JSON text."""

    def __init__(self, stream: IO[bytes], schema: pa.Schema) -> None:
        self._stream = stream
        self._write([schema.names])

    def write(self, table: pa.Table) -> None:
        self._write([[_cell(value) for value in row.values()] for row in table.to_pylist()])

    def _write(self, rows: list[list[Any]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._stream.write(text.getvalue().encode())

    def close(self) -> None:
        pass


class TextWriter:
    r"""The completion alone, one a line; line breaks within it are written as ``\n``."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def write(self, table: pa.Table) -> None:
        for output in table.column("output").to_pylist():
            line = (output or "").replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\\n")
            self._stream.write(line.encode() + b"\n")

    def close(self) -> None:
        pass


def open_writer(format: Format, stream: IO[bytes], schema: pa.Schema) -> Writer:
    """The writer of a format.

    Args:
        format: How to write.
        stream: Where to; must stay open until the writer was closed.
        schema: Columns of all tables to come.
    """
    if format == "parquet":
        return ParquetWriter(stream, schema)
    if format == "csv":
        return CsvWriter(stream, schema)
    return JsonLinesWriter(stream) if format == "jsonl" else TextWriter(stream)


def to_json(value: Any) -> str:
    """JSON text of a cell or row; what JSON does not have becomes text."""
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _cell(value: Any) -> Any:
    return to_json(value) if isinstance(value, list | Mapping) else value


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.tolist() if hasattr(value, "tolist") else str(value)
