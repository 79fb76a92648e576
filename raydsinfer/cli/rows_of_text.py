"""Rows of a text file (JSON lines, CSV, plain text), each with the byte that it begins at."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import IO, Any

from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.cli.formats import Format
from raydsinfer.errors import InputError

Row = dict[str, Any]
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Lines(Iterator[str]):
    """Lines of a UTF-8 stream with their ends, counting the bytes that they took.

    Args:
        stream: Open for reading; can seek.
        offset: Byte to begin at.
    """

    def __init__(self, stream: IO[bytes], offset: int = 0) -> None:
        self._stream, self.offset, self.number = stream, offset, 0
        stream.seek(offset)

    def __next__(self) -> str:
        raw = self._stream.readline()
        if not raw:
            raise StopIteration
        text = raw.removeprefix(_BYTE_ORDER_MARK) if self.offset == 0 else raw
        self.offset += len(raw)
        self.number += 1
        return text.decode()


def text_rows(path: str, format: Format, stream: IO[bytes], start: int = 0) -> Iterator[tuple[int, Row]]:
    """Each row with the offset of its first byte, to begin at later.

    Args:
        path: Name of the file, for messages.
        format: ``jsonl``, ``csv`` or ``txt``.
        stream: The file.
        start: Offset that this function gave before; 0 for the whole file.

    Raises:
        InputError: A line is not what the format says; names it.
    """
    lines = Lines(stream)
    try:
        header = _csv_cells(lines) if format == "csv" else []
        if start:
            lines = Lines(stream, start)
        if format == "csv":
            yield from _csv_rows(lines, header)
        elif format == "jsonl":
            yield from _json_rows(lines)
        else:
            yield from _plain_rows(lines)
    except (ValueError, RecursionError, csv.Error) as error:
        raise InputError(
            path=without_secrets(path),
            reason=f"line {lines.number} is not {format} ({error})",
            hint="Correct that line, or say --input-format.",
        ) from error


def csv_header(stream: IO[bytes]) -> list[str]:
    """Column names in the first line of a CSV file; none if the file is empty."""
    return _csv_cells(Lines(stream))


def _plain_rows(lines: Lines) -> Iterator[tuple[int, Row]]:
    offset = lines.offset
    for line in lines:
        yield offset, {"prompt": line.rstrip("\r\n")}
        offset = lines.offset


def _json_rows(lines: Lines) -> Iterator[tuple[int, Row]]:
    offset = lines.offset
    for line in lines:
        if line.strip():
            row = json.loads(line)
            if "\\ud" in line.lower():
                row = _writable(row)
            if not isinstance(row, dict):
                raise ValueError(f"expected an object, got {type(row).__name__}")
            yield offset, row
        offset = lines.offset


def _writable(value: Any) -> Any:
    """Half a surrogate pair, as truncated emoji leave it, is JSON but no UTF-8: nothing could store it."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [_writable(item) for item in value]
    if isinstance(value, dict):
        return {_writable(name): _writable(item) for name, item in value.items()}
    return value


def _csv_cells(lines: Lines) -> list[str]:
    # The library's own limit for a cell is 128 KiB, which a long prompt exceeds.
    csv.field_size_limit(2**31 - 1)
    return next(csv.reader(lines, strict=True), [])


def _csv_rows(lines: Lines, header: list[str]) -> Iterator[tuple[int, Row]]:
    offset = lines.offset
    for cells in csv.reader(lines, strict=True):
        if cells:
            if len(cells) != len(header):
                raise ValueError(f"{len(cells)} cells where the header has {len(header)}")
            yield offset, dict(zip(header, cells, strict=True))
        offset = lines.offset
