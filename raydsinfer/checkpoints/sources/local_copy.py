"""A copy of a model on this node: there as a whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from raydsinfer.errors import CheckpointError

MANIFEST = ".raydsinfer_fetch.json"
"""File in a copy that says what it is a copy of; no URL, no secrets."""


@dataclass(frozen=True, kw_only=True)
class LocalCopy:
    """Where a copy is, and where it is made.

    It is made in a directory beside its own, always the same one, so that the next attempt finds what
    an earlier one left, and is renamed when it is whole.

    Args:
        directory: The copy's own directory.
        source: What it is a copy of: a hash, so that no secret is stored.
        weights: Whether it has weights, too.
    """

    directory: Path
    source: str
    weights: bool

    @property
    def part(self) -> Path:
        """Where it is made."""
        return self.directory.with_name(f".{self.directory.name}.part")

    def lock(self) -> FileLock:
        """What the one process of this node that makes it holds; let go of when that process ends."""
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.directory.with_name(f".{self.directory.name}.lock"))

    def is_whole(self) -> bool:
        """Whether it is there, and each of its files has the size that it had when it was fetched."""
        return self._belongs() and all(
            _size(self.directory / name) == num_bytes for name, (num_bytes, _) in self.files().items()
        )

    def files(self) -> Mapping[str, tuple[int, str]]:
        """File name → bytes and stamp, of the copy that is there; empty if there is none."""
        return _read(self.directory)[1]

    def num_bytes(self) -> int:
        """Bytes of all files of the copy that is there."""
        return sum(num_bytes for num_bytes, _ in self.files().values())

    def num_bytes_in_part(self) -> int:
        """Bytes that have arrived of a copy that is being made."""
        return sum(_size(path) or 0 for path in self.part.rglob("*") if path.is_file())

    def require_room(self) -> None:
        """Check that the directory is ours to fill.

        Raises:
            CheckpointError: Something else is there.
        """
        if not self.directory.exists():
            return
        reason = hint = ""
        if not self.directory.is_dir():
            reason, hint = "is a file", "Give a directory."
        elif self.directory.is_mount():
            reason, hint = "is where a disk is mounted, so it cannot be renamed", "Give a directory below it."
        elif any(self.directory.iterdir()) and _read(self.directory)[0].get("source") != self.source:
            reason, hint = "holds something else", "Give an empty directory or a new one, or remove what is there."
        if reason:
            raise CheckpointError(path=str(self.directory), reason=reason, hint=hint)

    def prepare(self, stamps: Mapping[str, str]) -> None:
        """Make the directory in which the copy is made, with all that can be kept of earlier ones.

        Args:
            stamps: File name → stamp, of the files at the source.

        Raises:
            CheckpointError: Something else has that name.
        """
        if not _is_ours(self.part):
            raise CheckpointError(
                path=str(self.part),
                reason="is where the files would be gathered, but was not made by a fetch",
                hint="Move it elsewhere, or choose another directory for the model.",
            )
        self.part.mkdir(parents=True, exist_ok=True)
        known, before = _read(self.part)[1], self.files()
        if not known:  # nothing says what the files in it are
            shutil.rmtree(self.part)
            self.part.mkdir()
        for name, (_, stamp) in known.items():
            if stamps.get(name) != stamp:
                (self.part / name).unlink(missing_ok=True)
                (self.part / f"{name}.part").unlink(missing_ok=True)
        self._write({name: (0, stamp) for name, stamp in stamps.items()})
        for name, file in before.items() if self._has_source() else ():
            path = self.directory / name
            if file == (_size(path), stamps.get(name)) and not (self.part / name).exists():
                _link(path, self.part / name)
        self._keep_own(stamps)

    def commit(self, stamps: Mapping[str, str]) -> None:
        """Give the copy its name, now that it is whole.

        Args:
            stamps: As given to `prepare`.
        """
        self._keep_own(stamps)  # what came while it was fetched
        self._write({name: (_size(self.part / name) or 0, stamp) for name, stamp in stamps.items()})
        if self.directory.exists():
            self.directory.rename(self.directory.with_name(f".{self.directory.name}.old-{uuid.uuid4().hex[:8]}"))
        self.part.rename(self.directory)
        self._remove_old()

    def _remove_old(self) -> None:
        """Remove what the copy has replaced, now or before an earlier process was killed."""
        pattern = re.compile(re.escape(f".{self.directory.name}.old-") + "[0-9a-f]{8}")
        for path in self.directory.parent.iterdir():
            if pattern.fullmatch(path.name) and _is_ours(path):
                shutil.rmtree(path, ignore_errors=True)

    def _keep_own(self, stamps: Mapping[str, str]) -> None:
        """Take along what the user put beside the files of the copy that is there."""
        known = {*self.files(), *stamps, MANIFEST}
        for path in sorted(self.directory.rglob("*")) if self._has_source() else ():
            name = path.relative_to(self.directory).as_posix()
            if name not in known and path.is_file() and not (self.part / name).exists():
                _link(path, self.part / name)

    def _has_source(self) -> bool:
        return _read(self.directory)[0].get("source") == self.source

    def _belongs(self) -> bool:
        return self._has_source() and bool(_read(self.directory)[0].get("weights") or not self.weights)

    def _write(self, files: Mapping[str, tuple[int, str]]) -> None:
        content = {"version": 1, "source": self.source, "weights": self.weights}
        listed = {name: {"bytes": num_bytes, "stamp": stamp} for name, (num_bytes, stamp) in files.items()}
        path = self.part / f"{MANIFEST}.part"
        path.write_text(json.dumps({**content, "files": listed}, indent=1) + "\n")
        path.replace(self.part / MANIFEST)


def _read(directory: Path) -> tuple[Mapping[str, object], dict[str, tuple[int, str]]]:
    try:
        content = json.loads((directory / MANIFEST).read_text())
        files = {name: (int(file["bytes"]), str(file["stamp"])) for name, file in content["files"].items()}
        files = {name: file for name, file in files.items() if not {"..", "/"} & set(Path(name).parts)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, {}
    return content, files


def _is_ours(directory: Path) -> bool:
    """Whether there is nothing, or only what a fetch made; killed, it may have written half a manifest."""
    if not os.path.lexists(directory):
        return True
    if directory.is_symlink() or not directory.is_dir():
        return False
    names = {path.name for path in directory.iterdir()}
    return MANIFEST in names or names <= {f"{MANIFEST}.part"}


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _link(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target)
    except OSError:  # not every file system knows links
        shutil.copy2(path, target)
