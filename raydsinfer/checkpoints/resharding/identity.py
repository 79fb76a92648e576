"""Whether two looks at a source see the same weights, without reading them all."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from raydsinfer.errors import CheckpointError

_NUM_SAMPLES = 64
_SAMPLE_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a source is.

    Args:
        content: Of names, sizes, small files whole, and samples of large ones: equal for copies on other nodes.
        place: Of node and directory.
        stamp: Of the times of files that are not read whole, which tell a change only where `place` is equal.
    """

    content: str
    place: str
    stamp: str

    def same_as(self, other: Identity) -> bool:
        """Whether nothing tells the two apart."""
        return self.content == other.content and (self.place != other.place or self.stamp == other.stamp)


def identify(directory: Path, names: Iterable[str]) -> Identity:
    """Look at the files of a source.

    Args:
        directory: Where they are.
        names: Their names in it.

    Raises:
        CheckpointError: One cannot be read.
    """
    content, stamp = hashlib.sha256(), hashlib.sha256()
    for name in sorted(names):
        path = directory / name
        try:
            found = path.stat()
            content.update(f"{name}\0{found.st_size}\0".encode())
            if not _add_content(content, path, found.st_size):
                stamp.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
        except OSError as error:
            raise CheckpointError(
                path=str(path), reason=f"cannot be read ({error.strerror})", hint="Check the file and its permissions."
            ) from error
    place = hashlib.sha256(f"{platform.node()}\0{directory.resolve()}".encode()).hexdigest()
    return Identity(content=content.hexdigest(), place=place, stamp=stamp.hexdigest())


def _add_content(digest: hashlib._Hash, path: Path, num_bytes: int) -> bool:
    """Add what a file holds; whether that was all of it, and not samples."""
    with path.open("rb", buffering=0) as stream:
        if num_bytes <= _NUM_SAMPLES * _SAMPLE_BYTES or path.suffix == ".json":
            while block := stream.read(2**20):
                digest.update(block)
            return True
        for i in range(_NUM_SAMPLES):
            start = (num_bytes - _SAMPLE_BYTES) * i // (_NUM_SAMPLES - 1)
            digest.update(os.pread(stream.fileno(), _SAMPLE_BYTES, start))
    return False
