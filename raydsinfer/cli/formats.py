"""File formats of rows, by the suffix of their path."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal, get_args

from raydsinfer.errors import InvalidSettingError

Format = Literal["parquet", "jsonl", "csv", "txt"]

SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".txt": "txt",
}


def format_of(path: str) -> Format | None:
    """The format that a path's suffix names, None if it names none."""
    return SUFFIXES.get(PurePosixPath(path.split("?")[0]).suffix.lower())


def checked_format(option: str, value: str) -> Format:
    """A format that was named by hand.

    Args:
        option: The option's name, for the message.
        value: What was given.

    Raises:
        InvalidSettingError: There is no such format.
    """
    if value == "json":
        return "jsonl"
    for known in get_args(Format):
        if value == known:
            return known  # type: ignore[no-any-return]
    raise InvalidSettingError(name=option, value=value, expected=f"one of {', '.join(get_args(Format))}")
