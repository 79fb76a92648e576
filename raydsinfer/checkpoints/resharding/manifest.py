"""What a finished reshard says of itself: `raydsinfer_reshard.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from raydsinfer.checkpoints.resharding.identity import Identity
from raydsinfer.checkpoints.weights.ranks_index import FileSum

MANIFEST = "raydsinfer_reshard.json"

Layout = Literal["layers", "ranks", "deepspeed"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides which files a reshard writes.

    Args:
        layout: ``layers``, ``ranks`` or ``deepspeed``.
        tp_size: Number of ranks; None for ``layers``.
        dtype: Of all floating tensors; None keeps each as it is.
        max_shard_bytes: Largest file.
    """

    layout: Layout
    tp_size: int | None = None
    dtype: str | None = None
    max_shard_bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A finished reshard.

    Args:
        settings: What it was made with.
        source: What it was made from.
        origin: The source's name, for people; no secrets.
        files: File name → size and checksum, of the weights.
        extras: Names of the small files that came along.
        num_tensors: How many tensors of the source they hold.
        version: Of this form.
    """

    settings: Settings
    source: Identity
    origin: Mapping[str, Any]
    files: Mapping[str, FileSum]
    extras: tuple[str, ...]
    num_tensors: int
    version: Literal[1] = 1

    @property
    def num_bytes(self) -> int:
        """Bytes of the files of weights."""
        return sum(file.bytes for file in self.files.values())

    def serves(self, settings: Settings, source: Identity, *, any_size: bool) -> bool:
        """Whether it is what would be made.

        Args:
            settings: What would be made.
            source: From what.
            any_size: Whether its dtype and the size of its files matter not.
        """
        wanted = replace(settings, dtype=self.settings.dtype, max_shard_bytes=self.settings.max_shard_bytes)
        return self.settings == (wanted if any_size else settings) and self.source.same_as(source)


def read_manifest(directory: Path) -> Manifest | None:
    """What a directory says of itself; None if it says nothing that can be read."""
    try:
        return TypeAdapter(Manifest).validate_json((directory / MANIFEST).read_bytes(), strict=True)
    except (OSError, ValidationError):
        return None


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write it; last of all files."""
    (directory / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1) + "\n")
