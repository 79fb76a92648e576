"""Where a reshard goes: built beside its place under a lock, moved there when it is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from raydsinfer.checkpoints.disk import is_full
from raydsinfer.checkpoints.resharding.aside import foreign_files, lost_files, move_aside, remove, settle
from raydsinfer.checkpoints.resharding.manifest import MANIFEST, Manifest, read_manifest
from raydsinfer.checkpoints.sizes import size_in_words
from raydsinfer.errors import InvalidSettingError, OutputError


class Target:
    """A directory that shall come to be.

    Args:
        path: Its path, symlinks resolved.
        setting: What names it: ``target`` of `reshard`, or a setting, beside which nothing says to overwrite.
    """

    def __init__(self, path: Path, *, setting: str = "target") -> None:
        self.path, self._setting = path, setting
        self.partial = path.with_name(f"{path.name}.partial")
        self._lock = path.with_name(f"{path.name}.lock")

    def check_apart(self, source: Path) -> None:
        """Raise `InvalidSettingError` if source and target lie one inside the other."""
        source = source.resolve()
        for own in (self.path, self.partial):
            if source == own or source in own.parents or own in source.parents:
                raise InvalidSettingError(
                    name=self._setting,
                    value=str(self.path),
                    expected=f"a directory apart from the source {source}, not inside or around it",
                )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one who works on this target, on any node that shares the disk."""
        with self.typed_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.touch()  # says what is wrong with the place; `acquire` would try for ever
            lock = FileLock(self._lock)
            lock.acquire()
        try:
            with self.typed_errors():
                settle(self.path)
            yield
        finally:
            lock.release()

    def finished(self) -> Manifest | None:
        """What is there, if it is a finished reshard with all its files.

        Raises:
            OutputError: A file of it is missing, or has another size.
        """
        manifest = read_manifest(self.path)
        for name in lost_files(self.path, manifest) if manifest else ():
            raise OutputError(
                path=str(self.path / name),
                reason="it is missing or has another size than when it was written",
                hint=self._hint(f"Remove {self.path}"),
            )
        return manifest

    def check_free(self, *, overwrite: bool) -> None:
        """Raise `OutputError` if something is there that may not be replaced."""
        if self.path.is_mount():  # what is built beside it would be on another disk
            raise OutputError(
                path=str(self.path), reason="a disk is mounted there", hint="Choose a directory below it."
            )
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        if not (self.path / MANIFEST).is_file():
            raise OutputError(
                path=str(self.path),
                reason="it exists and was not made by reshard",
                hint="Choose another path, or remove it yourself.",
            )
        if not overwrite:
            raise OutputError(
                path=str(self.path),
                reason="it holds another reshard: of other weights, or made with other settings",
                hint=self._hint("Remove it"),
            )
        foreign = foreign_files(self.path)
        if foreign:
            more = f", and {len(foreign) - 5} more" if foreign[5:] else ""
            raise OutputError(
                path=str(self.path),
                reason=f"it also holds files that reshard did not write: {', '.join(foreign[:5])}{more}",
                hint="Move them elsewhere, or choose another path.",
            )

    def check_space(self, num_bytes: int) -> None:
        """Raise `OutputError` if the disk has less than `num_bytes` free."""
        free = shutil.disk_usage(self.path.parent).free
        if free < num_bytes:
            raise OutputError(
                path=str(self.path),
                reason=f"{size_in_words(num_bytes)} are needed, {size_in_words(free)} are free",
                hint="Free space there, or choose another disk.",
            )

    def commit(self) -> None:
        """Move what was built into place."""
        self.check_free(overwrite=True)  # it was looked at before the hours that this may have taken
        _sync(self.partial)
        aside = move_aside(self.path) if self.path.is_dir() and any(self.path.iterdir()) else None
        self.partial.rename(self.path)
        _sync(self.path.parent)
        if aside is not None:
            remove(aside)

    def _hint(self, remove_it: str) -> str:
        if self._setting != "target":
            return f"{remove_it}, or choose another path for {self._setting}."
        return f"{remove_it}, choose another path, or overwrite it (--overwrite, overwrite=True)."

    @contextmanager
    def typed_errors(self, num_bytes: int = 0) -> Iterator[None]:
        """Turn what the disk raises into an `OutputError`.

        Args:
            num_bytes: What is needed in all, for a disk that is full.
        """
        try:
            yield
        except OSError as error:
            full = is_full(error)
            needed = f" ({size_in_words(num_bytes)} are needed in all)" if full and num_bytes else ""
            kept = f"What was finished is kept in {self.partial} for the next run; remove it to give up."
            raise OutputError(
                path=str(self.path),
                reason=f"{error.strerror or error}: {error.filename or self.partial}{needed}",
                hint=f"Free space there, then run again. {kept}" if full else "Check the path and its permissions.",
            ) from error


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
