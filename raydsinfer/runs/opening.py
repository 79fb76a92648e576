"""Whether a directory is a run directory, and how it becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raydsinfer import __version__
from raydsinfer.errors import RunDirectoryError
from raydsinfer.rows.keys import RunIdentity
from raydsinfer.runs.files import RunFiles
from raydsinfer.runs.names import FOLDERS, HEADER, is_temporary
from raydsinfer.runs.records import VERSION, Header, parsed, written


def program() -> str:
    """Name and version of this program."""
    return f"raydsinfer {__version__}"


def readable(identity: RunIdentity) -> Mapping[str, Any]:
    """What an identity is made of, for people; no secrets are in it."""
    return {"model": identity.model, **identity.settings, "seed": identity.seed}


def open_directory(files: RunFiles, identity: RunIdentity, *, resume: bool) -> None:
    """Make a run directory, or check the one that is there.

    Raises:
        RunDirectoryError: It exists and `resume` is False, holds something else, is of a newer version, or cannot be
            written.
    """
    there = files.sizes()
    header = check_header(files) if HEADER in there else None
    foreign = sorted(name for name in there if name not in (HEADER, *FOLDERS) and not is_temporary(name))
    if header is None and foreign:
        raise RunDirectoryError(
            path=files.shown,
            reason=f"holds other files, such as {foreign[0]!r}, and is no run directory",
            hint="Choose a directory that is new or empty.",
        )
    # What a job left that was killed before it wrote the header holds no rows.
    if not resume and (header is not None or set(there) & set(FOLDERS)):
        raise RunDirectoryError(
            path=files.shown,
            reason="holds a run already",
            hint="Say --resume (resume=True) to go on with it, or choose another directory.",
        )
    files.make_folders([""])
    if header is None:
        files.put(HEADER, written(Header(created_by=program(), identity=readable(identity))))
    files.make_folders(FOLDERS)


def check_header(files: RunFiles) -> Header | None:
    """What a directory says that it is; None if it says nothing.

    Raises:
        RunDirectoryError: It cannot be read, or a newer version wrote it.
    """
    if HEADER not in files.sizes():
        return None
    header = parsed(Header, files.get(HEADER))
    if header is None:
        raise RunDirectoryError(
            path=f"{files.shown}/{HEADER}",
            reason="is not what a run directory has",
            hint="If this is one, remove the file and go on with --resume: no rows are in it.",
        )
    if header.version > VERSION:
        raise RunDirectoryError(
            path=files.shown,
            reason=f"is of version {header.version}, written by {header.created_by}; this program knows {VERSION}",
            hint="Use the newer program, or another directory.",
        )
    return header
