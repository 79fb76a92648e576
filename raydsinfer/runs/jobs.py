"""The jobs that started in a run directory, and those that ended well."""

from __future__ import annotations

from collections.abc import Callable

from raydsinfer.runs.files import RunFiles
from raydsinfer.runs.names import STARTS, end_file, ids_in, start_file
from raydsinfer.runs.records import End, R, Start, parsed


def read_starts(files: RunFiles) -> dict[str, Start]:
    """Id → what the job said when it started.

    Raises:
        RunDirectoryError: The directory cannot be listed.
    """
    return _read(files, Start, ".json", start_file)


def read_ends(files: RunFiles) -> dict[str, End]:
    """Id of the start → what the job said when it had answered all its rows.

    Raises:
        RunDirectoryError: The directory cannot be listed.
    """
    return _read(files, End, ".end", end_file)


def _read(files: RunFiles, kind: type[R], suffix: str, name_of: Callable[[str], str]) -> dict[str, R]:
    ids = ids_in(files.sizes(STARTS), suffix)
    contents = files.get_all(map(name_of, ids))
    # One that is damaged tells nothing: no rows hang on it.
    return {job: record for job, content in zip(ids, contents, strict=True) if (record := parsed(kind, content))}
