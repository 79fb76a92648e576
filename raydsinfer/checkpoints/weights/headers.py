"""Headers of safetensors files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raydsinfer.checkpoints.tensors import FORMAT_NAMES, StoredTensor
from raydsinfer.errors import CorruptCheckpointError, summary_of

_DTYPES = {theirs: ours for ours, theirs in FORMAT_NAMES.items()}


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, by name, in the order of its header.

    Raises:
        CorruptCheckpointError: The file is truncated, or its header is not true of it.
    """
    from safetensors import safe_open

    try:
        # Checks everything that a header can lie about: length, sizes, gaps, overlaps, the end of the file.
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length), object_pairs_hook=_without_twins)
    except Exception as error:  # SafetensorError, OSError, ValueError, …
        raise _corrupt(path, f"truncated or unreadable ({summary_of(error)})") from error
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise _corrupt(path, f"tensor {name} has the unknown dtype {entry['dtype']}")
    return {
        name: StoredTensor(
            name=name,
            file=path.name,
            dtype=_DTYPES[entry["dtype"]],
            shape=tuple(entry["shape"]),
        )
        for name, entry in header.items()
    }


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)} is there twice")
    return entries


def _corrupt(path: Path, reason: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(path=str(path), reason=reason, hint="Fetch the model again.")
