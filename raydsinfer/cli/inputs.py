"""What INPUT names: which files, how many rows, which columns; checked before anything is started."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO

import fsspec

from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.cli.formats import SUFFIXES, Format, format_of
from raydsinfer.cli.scan import ScannedFile, Types, scan
from raydsinfer.errors import InputError, summary_of

# At most this many read tasks; more rows make each of them larger.
_MAX_SLICES = 2000


@dataclass(frozen=True)
class Slice:
    """Rows of one file, read by one task.

    Args:
        path: The file, as fsspec understands it.
        start: Where they begin: a byte of a text file, a row of a Parquet file.
        num_rows: How many.
        first: Number of the first one among the rows of all files.
    """

    path: str
    start: int
    num_rows: int
    first: int = 0


@dataclass(frozen=True)
class Input:
    """The rows to answer.

    Args:
        format: How the files are written.
        files: What `scan` found in each.
        types: Columns of all files.
    """

    format: Format
    files: tuple[ScannedFile, ...]
    types: Types

    @property
    def num_rows(self) -> int:
        """Rows of all files."""
        return sum(file.num_rows for file in self.files)

    def slices(self, batch_size: int) -> list[Slice]:
        """The rows in order, cut into whole batches.

        Args:
            batch_size: Rows of a batch.
        """
        per_slice = batch_size * -(-self.num_rows // (batch_size * _MAX_SLICES))
        firsts = accumulate((file.num_rows for file in self.files), initial=0)
        return [
            part
            for file, first in zip(self.files, firsts, strict=False)
            for part in _slices_of(file, first, max(per_slice, batch_size))
        ]


def _slices_of(file: ScannedFile, first: int, per_slice: int) -> Iterator[Slice]:
    for row in range(0, file.num_rows, per_slice):
        start = file.offsets[row] if file.offsets else row
        yield Slice(file.path, start, min(per_slice, file.num_rows - row), first + row)


def open_input(path: str, wanted: Format | None, scratch: Path) -> Input:
    """Find and check the rows that INPUT names. Text formats are read once from end to end.

    Args:
        path: A file, a directory, a glob, a URL of one of them, or ``-`` for standard input.
        wanted: Format that was named by hand; None means by suffix (text for standard input).
        scratch: Directory for what has to be copied first.

    Raises:
        InputError: There is nothing, or it cannot be read as what it claims to be.
    """
    paths = [_spooled(sys.stdin.buffer, scratch)] if path == "-" else _files(path, wanted)
    formats = {wanted or format_of(file) or "txt" for file in paths}
    if len(formats) > 1:
        raise InputError(
            path=without_secrets(path),
            reason=f"holds files of several formats ({', '.join(sorted(formats))})",
            hint="Name the files with a glob, such as 'prompts/*.jsonl'.",
        )
    (chosen,) = formats
    if chosen == "jsonl":
        paths = [_as_lines(file, scratch) for file in paths]
    files: list[ScannedFile] = []
    types: Types = {}
    for file in paths:
        scanned, types = scan(file, chosen, types)
        files.append(scanned)
    return Input(chosen, tuple(files), types)


def _files(path: str, wanted: Format | None) -> list[str]:
    known, shown = ", ".join(SUFFIXES), without_secrets(path)
    try:
        filesystem, root = fsspec.core.url_to_fs(str(Path(path).expanduser()) if "://" not in path else path)
        if any(sign in path for sign in "*?[") and not filesystem.exists(root):
            found = sorted(filesystem.glob(root))
        elif filesystem.isdir(root):
            found = sorted(f for f in filesystem.find(root) if not _hidden(f, root) and (wanted or format_of(f)))
        elif filesystem.exists(root):
            if not wanted and not format_of(root):
                hint = f"Say --input-format, or use one of {known}."
                raise InputError(path=shown, reason="its suffix names no format", hint=hint)
            found = [root]
        else:
            raise InputError(path=shown, reason="no such file or directory", hint="Check the path; '-' reads stdin.")
    except InputError:
        raise
    except Exception as error:  # each file system raises its own
        reason = f"cannot be read ({without_secrets(summary_of(error))})"
        raise InputError(path=shown, reason=reason, hint="Check the path.") from None
    if not found:
        raise InputError(path=shown, reason="no files there to read", hint=f"Known suffixes: {known}.")
    local = "file" in (filesystem.protocol if isinstance(filesystem.protocol, tuple) else [filesystem.protocol])
    return [file if local else str(filesystem.unstrip_protocol(file)) for file in found]


def _hidden(file: str, root: str) -> bool:
    return any(part.startswith((".", "_")) for part in file[len(root) :].split("/"))


def _spooled(stream: IO[bytes], scratch: Path) -> str:
    target = scratch / "stdin"
    with target.open("wb") as copy:
        while chunk := stream.read(1 << 20):
            copy.write(chunk)
    return str(target)


def _as_lines(path: str, scratch: Path) -> str:
    """The same file, or for one JSON array a copy with an element a line."""
    shown = without_secrets(path)
    with fsspec.open(path, "rb") as stream:
        while (first := stream.read(1)).isspace() or first == b"\xef":
            if first == b"\xef":
                stream.read(2)  # byte order mark
        if first != b"[":
            return path
        try:
            rows = json.loads(b"[" + stream.read())
        except (ValueError, RecursionError) as error:
            raise InputError(path=shown, reason=f"begins like a JSON array but is not one ({error})") from error
    for place, row in enumerate(rows):
        if not isinstance(row, dict):
            reason = f"element {place} of its array is not an object but {type(row).__name__}"
            raise InputError(path=shown, reason=reason, hint="Correct that element.")
    target = scratch / f"array-{len(list(scratch.iterdir()))}.jsonl"
    with target.open("w") as copy:
        copy.writelines(json.dumps(row) + "\n" for row in rows)
    return str(target)
