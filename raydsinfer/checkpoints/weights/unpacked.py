"""Pickles from before zip archives, unpacked once per node so that all ranks map the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from raydsinfer.checkpoints.weights.pickles import load_unmappable
from raydsinfer.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_ALIGNMENT = 64


def load_unpacked(path: Path, scratch: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a pickle that cannot be mapped, from a copy that can; made if it is not there yet.

    Args:
        path: The pickle.
        scratch: Directory for such copies, on this node.

    Raises:
        CheckpointError: The copy cannot be written.
        CorruptCheckpointError: The pickle is truncated, unreadable, or carries anything but tensors.
    """
    stat = path.resolve().stat()
    key = hashlib.sha256(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()[:24]
    index, values = scratch / f"{key}.json", scratch / f"{key}.values"
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        with FileLock(scratch / f"{key}.lock"):
            if not index.is_file():  # written last
                _unpack(path, index, values)
    except OSError as error:
        raise CheckpointError(
            path=str(path),
            reason=f"is of a form that has to be unpacked, and cannot be: {error.strerror or error} ({scratch})",
            hint=f"Give it {stat.st_size / 1e9:.1f} GB there, or convert the model with save_pretrained.",
        ) from error
    return _map(values, json.loads(index.read_text()))


def _unpack(path: Path, index: Path, values: Path) -> None:
    """Read the values straight into the copy: host memory holds none of them but as pages of the file."""
    import torch

    for abandoned in values.parent.glob(f"{values.name}.part-*"):  # by a process that was killed: we have the lock
        abandoned.unlink(missing_ok=True)
    sizes: list[int] = []

    def note(storage: Any) -> Any:
        sizes.append(_aligned(storage.nbytes()))
        return storage

    load_unmappable(path, values=False, place=note)
    part = values.with_name(f"{values.name}.part-{uuid.uuid4().hex[:8]}")
    try:
        with part.open("wb") as file:  # all of it now: a disk that fills later would end the process by a signal
            os.posix_fallocate(file.fileno(), 0, max(1, sum(sizes)))
        entries = _read_into(path, torch.UntypedStorage.from_file(str(part), True, max(1, sum(sizes))))
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(values)
        part_of_index = part.with_name(f"{part.name}.json")
        part_of_index.write_text(json.dumps(entries))
        part_of_index.replace(index)
    finally:
        part.unlink(missing_ok=True)


def _read_into(path: Path, target: Any) -> dict[str, Any]:
    """Read a pickle's values into a mapped file; says where each tensor lies."""
    end = 0

    def place(storage: Any) -> Any:
        nonlocal end
        start, end = end, end + _aligned(storage.nbytes())
        return target[start : start + storage.nbytes()]

    return {
        name: {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "stride": list(tensor.stride()),
            "offset": tensor.data_ptr() - target.data_ptr() if tensor.numel() else 0,
        }
        for name, tensor in load_unmappable(path, place=place).items()
    }


def _map(values: Path, entries: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    import torch

    storage: Any = torch.UntypedStorage.from_file(str(values), False, values.stat().st_size)
    tensors = {}
    for name, entry in entries.items():
        dtype: torch.dtype = getattr(torch, entry["dtype"])
        empty = torch.empty(0, dtype=dtype)
        tensors[name] = empty.set_(storage, entry["offset"] // dtype.itemsize, entry["shape"], entry["stride"])
    return tensors


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
