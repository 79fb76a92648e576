"""An older reshard that makes room for a new one: moved aside, never lost, and no file of anybody else's with it."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from pathlib import Path

from raydsinfer.checkpoints.model_files import INDICES
from raydsinfer.checkpoints.resharding.journal import JOURNAL
from raydsinfer.checkpoints.resharding.manifest import MANIFEST, Manifest, read_manifest


def foreign_files(directory: Path) -> list[str]:
    """Names in a reshard that it did not write; those of all files if it does not say what it wrote."""
    manifest = read_manifest(directory)
    ours = {*manifest.files, *manifest.extras, *INDICES, MANIFEST, JOURNAL} if manifest else {MANIFEST}
    names = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if _is_entry(path)}
    return sorted(names - ours)


def lost_files(directory: Path, manifest: Manifest) -> list[str]:
    """Names of weights that a reshard had and that are missing now, or of another size."""
    return [name for name, file in manifest.files.items() if not _has_size(directory / name, file.bytes)]


def move_aside(directory: Path) -> Path:
    """Give a reshard another name beside its own; returns that."""
    aside = directory.with_name(f"{directory.name}.replaced-{uuid.uuid4().hex[:8]}")
    directory.rename(aside)
    return aside


def remove(directory: Path) -> None:
    """Remove a reshard, what says that it is one last of all."""
    for path in directory.iterdir():
        if path.name != MANIFEST:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.rmtree(directory)


def settle(directory: Path) -> None:
    """Put back what a process moved aside that was killed before the new one was in place; remove other remains.

    Args:
        directory: Where it was; nobody else works on it.
    """
    pattern = re.compile(re.escape(directory.name) + r"\.replaced-[0-9a-f]{8}")
    for aside in sorted(path for path in directory.parent.iterdir() if pattern.fullmatch(path.name)):
        manifest = read_manifest(aside)
        if manifest is None or foreign_files(aside):
            continue  # nothing says that it is ours to touch
        if os.path.lexists(directory) or lost_files(aside, manifest):
            remove(aside)
        else:
            aside.rename(directory)


def _is_entry(path: Path) -> bool:
    return path.is_symlink() or not path.is_dir()


def _has_size(path: Path, num_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == num_bytes
