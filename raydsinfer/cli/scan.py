"""One pass over an input file before anything is started: how many rows, which columns, all readable?"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.cli.formats import Format
from raydsinfer.cli.rows_of_text import Row, csv_header, text_rows
from raydsinfer.errors import InputError, summary_of

# Rows looked at together when the types of JSON columns are worked out.
_CHUNK = 1000

Types = dict[str, Any]
"""Column → Arrow type; None where the rows of a column are of different kinds."""


@dataclass(frozen=True)
class ScannedFile:
    """What a pass over a file found.

    Args:
        path: The file, as fsspec understands it.
        num_rows: Rows in it.
        offsets: First byte of each row; empty for Parquet, where rows have numbers.
    """

    path: str
    num_rows: int
    offsets: array[int]


def scan(path: str, format: Format, types: Types) -> tuple[ScannedFile, Types]:
    """Count a file's rows and work out its columns.

    Args:
        path: The file, as fsspec understands it.
        format: How it is written.
        types: Columns of the files before it.

    Returns:
        The file, and the columns of all files so far.

    Raises:
        InputError: The file cannot be read as that format; names the line.
    """
    try:
        with fsspec.open(path, "rb") as stream:
            if format != "parquet":
                return _scan_text(path, format, stream, types)
            file = pq.ParquetFile(stream)
            found = {field.name: field.type for field in file.schema_arrow}
            _check_names(path, file.schema_arrow.names)
            return ScannedFile(path, file.metadata.num_rows, array("q")), _merged(types, found)
    except (pa.ArrowInvalid, OSError) as error:
        reason = f"not readable as {format} ({without_secrets(summary_of(error))})"
        hint = "Check the file, or say --input-format."
        raise InputError(path=without_secrets(path), reason=reason, hint=hint) from error


def _check_names(path: str, names: list[str]) -> None:
    """A row is a mapping: of two columns of one name it would lose one."""
    if twice := [name for name in names if names.count(name) > 1]:
        hint = "Rename one of them."
        raise InputError(path=without_secrets(path), reason=f"has the column {twice[0]!r} more than once", hint=hint)


def _scan_text(path: str, format: Format, stream: IO[bytes], types: Types) -> tuple[ScannedFile, Types]:
    offsets, rows = array("q"), text_rows(path, format, stream)
    while chunk := list(islice(rows, _CHUNK)):
        offsets.extend(offset for offset, _ in chunk)
        if format == "jsonl":
            types = _merged(types, _json_types([row for _, row in chunk]))
    if format == "csv":
        stream.seek(0)
        _check_names(path, header := csv_header(stream))
        types = _merged(types, dict.fromkeys(header, pa.string()))
    elif format == "txt":
        types = {"prompt": pa.string()}
    return ScannedFile(path, len(offsets), offsets), types


def _json_types(rows: list[Row]) -> Types:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _inferred([row.get(name) for row in rows]) for name in names}


def _inferred(values: list[Any]) -> Any:
    try:
        return pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return None


def _merged(known: Types, found: Types) -> Types:
    return known | {name: _common(known[name], kind) if name in known else kind for name, kind in found.items()}


def _common(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return None
    try:
        pair = [pa.schema([("x", one)]), pa.schema([("x", other)])]
        return pa.unify_schemas(pair, promote_options="permissive").field("x").type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return None
