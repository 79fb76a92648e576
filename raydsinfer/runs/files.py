"""The files of a run directory, on this machine's file systems or on any that fsspec knows: small, whole or absent."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from raydsinfer.checkpoints.disk import is_full
from raydsinfer.checkpoints.sources.remote_errors import is_absent, not_openable, patiently
from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.errors import RunDirectoryError, summary_of
from raydsinfer.runs.names import temporary_name

T = TypeVar("T")

_NUM_THREADS = 16  # that wait for an object store


class RunFiles:
    """Reads and writes the files of one directory. Picklable: it holds the path only.

    Args:
        run_dir: Local path or URL.

    Attributes:
        shown: The directory without secrets, for messages.
        local: The directory, if it is on a file system of this machine.

    Raises:
        RunDirectoryError: No file system for such URLs is installed.
    """

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        given = os.fspath(run_dir)
        path = given.removeprefix("file://").removeprefix("local://")
        is_local = path != given or "://" not in given
        # Absolute, because the processes of a gang have other working directories.
        self._location = os.path.abspath(Path(path).expanduser()) if is_local and path else given.rstrip("/")
        self.shown = without_secrets(self._location)
        if not self._location:
            raise RunDirectoryError(path="''", reason="is no path", hint="Give a directory or a URL.")
        self.local = Path(self._location) if is_local else None
        self._filesystem: Any = None
        if not is_local:
            self._open()

    def __reduce__(self) -> tuple[Any, ...]:
        return RunFiles, (self._location,)

    def make_folders(self, names: Iterable[str]) -> None:
        """Make folders where file systems have such things.

        Raises:
            RunDirectoryError: They cannot be made.
        """
        for name in names:
            path = f"{self._location}/{name}"
            if self.local is not None:
                self._told(name, lambda path=path: os.makedirs(path, exist_ok=True))  # type: ignore[misc]

    def put(self, name: str, content: bytes) -> None:
        """Write a file: afterwards all of it is there, and stays there if the machine loses its power now.

        Raises:
            RunDirectoryError: It cannot be written; then there is nothing of it, or what was there before.
        """
        if self.local is not None:
            path = self.local / name
            self._told(name, lambda: _put(path, content))
        else:
            self._told(name, lambda: patiently(lambda: self._filesystem.pipe_file(self._key(name), content)))

    def get(self, name: str) -> bytes:
        """Read a file.

        Raises:
            RunDirectoryError: It is not there, or cannot be read.
        """
        if self.local is not None:
            path = self.local / name
            return self._told(name, path.read_bytes)
        content: bytes = self._told(name, lambda: patiently(lambda: self._filesystem.cat_file(self._key(name))))
        return content

    def get_all(self, names: Iterable[str]) -> Iterator[bytes | None]:
        """Read files, some at once if they are far; None for those that cannot be read."""
        if self.local is not None:
            yield from map(self._get_or_none, names)
            return
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            yield from pool.map(self._get_or_none, names)

    def sizes(self, folder: str = "") -> Mapping[str, int]:
        """Name → bytes of the files and folders in a folder, which may not be there.

        Raises:
            RunDirectoryError: It cannot be listed.
        """
        try:
            if self.local is not None:
                return _sizes(self.local / folder)
            self._filesystem.invalidate_cache()
            listed = patiently(lambda: self._filesystem.ls(self._key(folder), detail=True))
        except Exception as error:
            if isinstance(error, FileNotFoundError) or (self.local is None and is_absent(error)):
                return {}
            raise self._explained(error, folder) from None
        return {info["name"].rstrip("/").rsplit("/", 1)[-1]: int(info.get("size") or 0) for info in listed}

    def remove(self, name: str) -> None:
        """Remove a file or an empty folder if it is there; another may be at it, and nothing hangs on it."""
        with suppress(Exception):
            if self.local is None:
                self._filesystem.rm(self._key(name))
            elif (self.local / name).is_dir():
                (self.local / name).rmdir()
            else:
                (self.local / name).unlink()

    def _get_or_none(self, name: str) -> bytes | None:
        try:
            return self.get(name)
        except RunDirectoryError:
            return None

    def _open(self) -> None:
        import fsspec

        try:
            self._filesystem, self._root = fsspec.core.url_to_fs(self._location)
        except Exception as error:  # each file system raises its own
            said = not_openable(error, self._location)
            raise RunDirectoryError(path=said.path, reason=said.reason, hint=said.hint) from None

    def _key(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}".rstrip("/")

    def _told(self, name: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except Exception as error:
            raise self._explained(error, name) from None  # its text may carry the URL with all that is in it

    def _explained(self, error: Exception, name: str) -> RunDirectoryError:
        path = f"{self.shown}/{name}".rstrip("/")
        reason = str(getattr(error, "strerror", None) or summary_of(error))
        if self.local is None:  # what file systems make of a URL still has its secrets
            reason = reason.replace(self._root.strip("/") or "/", "…")
        reason = without_secrets(reason)
        hint = "Check the path and its permissions: the driver and every node have to reach it."
        if isinstance(error, OSError) and is_full(error):
            hint = "Make room, and go on with --resume or the same run_dir: what was committed is kept."
        return RunDirectoryError(path=path, reason=reason, hint=hint)


def _sizes(folder: Path) -> dict[str, int]:
    sizes = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # a temporary file may be renamed meanwhile
                sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
    return sizes


def _put(path: Path, content: bytes) -> None:
    # Not tempfile's, whose files are their owner's alone: rights are the umask's business.
    temporary = path.with_name(temporary_name(path.name))
    try:
        with open(temporary, "xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)  # the name, too


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):  # what file systems without it say
            raise
    finally:
        os.close(folder)
