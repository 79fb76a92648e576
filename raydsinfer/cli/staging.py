"""An output that appears whole: written beside its place, moved there at the end, removed on failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import fsspec

from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.cli.unfinished import finished_name, remove_abandoned, unfinished_name
from raydsinfer.errors import OutputError


class Staging:
    """A temporary sibling of an output path. A context manager: a normal end moves it into place.

    On a local disk the move is one rename. On an object store it is a copy and a delete: a single
    file still appears whole, the files of a directory appear one after the other.

    Args:
        target: File, directory or URL that should come to be.
        overwrite: Whether something that is there already may be replaced.
        part_suffix: For a directory: the suffix of its part files. Only a directory that holds
            nothing else is ever replaced. None for a file.

    Raises:
        OutputError: Something is there, or nothing can be written there.
    """

    def __init__(self, target: str, *, overwrite: bool, part_suffix: str | None) -> None:
        self._shown, self._overwrite, self._part_suffix = without_secrets(target), overwrite, part_suffix
        location = target.rstrip("/") if "://" in target else str(Path(target).expanduser().absolute())
        with self.translated_errors():
            self._filesystem, self._path = fsspec.core.url_to_fs(location)
        parent, _, name = self._path.rpartition("/")
        self._parent = parent or "/"
        self._name, self._temporary = name, f"{parent}/{unfinished_name(name)}"

    def __enter__(self) -> Staging:
        self.check_free()
        remove_abandoned(self._filesystem, self._parent, self._name)
        with self.translated_errors():
            self._filesystem.makedirs(self._temporary if self._part_suffix else self._parent, exist_ok=True)
            if not self._part_suffix:
                with self._filesystem.open(self._temporary, "wb"):
                    pass  # shows that it can be written
        return self

    def open(self, name: str | None) -> IO[bytes]:
        """Open a file of the output for writing.

        Args:
            name: Its name in the directory; None if the output is one file.
        """
        with self.translated_errors():
            stream: IO[bytes] = self._filesystem.open(f"{self._temporary}/{name}" if name else self._temporary, "wb")
            return stream

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self._commit()
            except Exception as failure:  # the rows are whole: they must not be lost with their place
                reason = getattr(failure, "reason", "") or _reason(failure)
                hint = f"The finished rows are in {self._kept()}."
                raise OutputError(path=self._shown, reason=without_secrets(reason), hint=hint) from failure
        else:
            with suppress(Exception):  # the first error says more than a failed clean-up
                self._filesystem.rm(self._temporary, recursive=True)

    def _kept(self) -> str:
        """The finished rows under a name that nobody takes for abandoned."""
        kept = f"{self._temporary.rpartition('/')[0]}/{finished_name(self._name)}"
        try:
            self._filesystem.mv(self._temporary, kept, recursive=self._part_suffix is not None)
        except Exception:  # nothing can be written there any more, it seems
            return self._temporary
        return kept

    def _commit(self) -> None:
        self._filesystem.invalidate_cache()
        self.check_free()  # somebody else may have written there in the meantime
        aside = f"{self._temporary}-replaced"
        replaces_directory = self._part_suffix is not None and self._filesystem.exists(self._path)
        if replaces_directory:
            self._filesystem.mv(self._path, aside, recursive=True)
        self._filesystem.mv(self._temporary, self._path, recursive=self._part_suffix is not None)
        if replaces_directory:
            self._filesystem.rm(aside, recursive=True)

    def check_free(self) -> None:
        """Raise `OutputError` if something is there that may not be replaced."""
        with self.translated_errors():
            present = self._filesystem.exists(self._path)
            is_directory = present and self._filesystem.isdir(self._path)
            inside = self._filesystem.find(self._path) if is_directory else []
        if not present:
            return
        if not self._overwrite:
            raise OutputError(
                path=self._shown, reason="it exists", hint="Choose another path, or say --overwrite to replace it."
            )
        if is_directory and self._part_suffix is None:
            raise OutputError(
                path=self._shown, reason="it is a directory", hint="End the path with '/' for part files."
            )
        foreign = [f for f in inside if not (_name(f).startswith("part-") and f.endswith(self._part_suffix or ""))]
        if foreign or (present and not is_directory and self._part_suffix):
            what = f"it holds other files than part files, such as {_name(foreign[0])}" if foreign else "it is a file"
            raise OutputError(path=self._shown, reason=what, hint="Choose another path; this one is left as it is.")

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Turn what a file system raises into an `OutputError`."""
        try:
            yield
        except OutputError:
            raise
        except Exception as error:  # each file system raises its own
            raise OutputError(
                path=self._shown, reason=without_secrets(_reason(error)), hint="Check the path and its permissions."
            ) from error


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _reason(error: Any) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    where = f": {error.filename}" if getattr(error, "filename", None) else ""
    return f"{text}{where}"
