"""Finished files of an unfinished reshard: kept across interruptions, trusted only after a look."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from raydsinfer.checkpoints.resharding.writer import sum_of
from raydsinfer.checkpoints.weights.ranks_index import FileSum
from raydsinfer.errors import OutputError

JOURNAL = "raydsinfer_reshard.journal"


class Journal:
    """A directory that is being filled, and the list of its finished files.

    Opening it starts clean if what is there was meant to become something else.

    Args:
        directory: Made if need be; nobody else uses it.
        key: What the directory shall become; equal only for the same files.

    Raises:
        OutputError: The directory holds something that no reshard left.
        OSError: The directory cannot be made or written.
    """

    def __init__(self, directory: Path, key: str) -> None:
        self._directory, self._path, self._lock = directory, directory / JOURNAL, threading.Lock()
        earlier = self._read(key)
        self._listed: dict[str, FileSum] = earlier or {}
        if earlier is None:
            directory.mkdir(exist_ok=True)
            if not self._path.exists() and any(directory.iterdir()):
                raise OutputError(
                    path=str(directory),
                    reason="it is where the files would be built, but was not made by reshard",
                    hint="Choose another target, or remove it yourself.",
                )
            self.tidy()
            self._path.unlink(missing_ok=True)
            self._append({"key": key})

    def _read(self, key: str) -> dict[str, FileSum] | None:
        """What an earlier process listed for the same key; None if there is no such list."""
        try:
            text = self._path.read_text()
            whole = text[: text.rfind("\n") + 1]
            os.truncate(self._path, len(whole.encode()))  # a line that was cut off does not count
            lines = whole.splitlines()
            if not lines or json.loads(lines[0]) != {"key": key}:
                return None
            entries = [json.loads(line) for line in lines[1:]]
            return {entry.pop("name"): FileSum(**entry) for entry in entries}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def trusted(self, name: str, num_bytes: int | None, check: Callable[[], None]) -> FileSum | None:
        """What a finished file holds, if it is still what was listed; reads it whole, calling `check` meanwhile.

        Args:
            name: The file.
            num_bytes: Its size; None if that is not known beforehand.
            check: May raise to stop.
        """
        listed = self._listed.get(name)
        path = self._directory / name
        if listed is None or num_bytes not in (None, listed.bytes):
            return None
        if not path.is_file() or path.stat().st_size != listed.bytes:
            return None
        return listed if sum_of(path, check) == listed else None

    def add(self, files: Mapping[str, FileSum]) -> None:
        """List finished files; any thread may."""
        with self._lock:
            self._listed |= files
            self._append(*({"name": name, **asdict(file)} for name, file in files.items()))

    def _append(self, *entries: Mapping[str, object]) -> None:
        with self._path.open("a") as stream:
            stream.write("".join(json.dumps(entry) + "\n" for entry in entries))
            stream.flush()
            os.fsync(stream.fileno())

    def tidy(self) -> int:
        """Remove what was left unfinished; returns the bytes of what was finished."""
        num_bytes = 0
        for path in self._directory.iterdir():
            if path.name in self._listed:
                num_bytes += path.stat().st_size
            elif path != self._path:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return num_bytes

    def remove_from(self, directory: Path) -> None:
        """Remove the list from where the directory was moved to."""
        (directory / JOURNAL).unlink(missing_ok=True)
