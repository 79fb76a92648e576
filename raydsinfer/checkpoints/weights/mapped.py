"""Files of weights mapped into memory, each when it is first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from raydsinfer.checkpoints.tensors import StoredTensor
from raydsinfer.checkpoints.weights.pickles import can_be_mapped, load_mapped, load_unmappable
from raydsinfer.checkpoints.weights.unpacked import load_unpacked
from raydsinfer.errors import CorruptCheckpointError, summary_of

if TYPE_CHECKING:
    import torch


class MappedFiles:
    """Maps files and keeps them mapped; several threads may use it. A context manager.

    Args:
        directory: Where they are.
        sizes: File name → bytes that it had when it was described.
        scratch: Where pickles that cannot be mapped are unpacked; None reads them into memory.
    """

    def __init__(self, directory: Path, sizes: Mapping[str, int], scratch: Path | None) -> None:
        self._directory, self._sizes, self._scratch = directory, sizes, scratch
        self._stack, self._lock = ExitStack(), RLock()
        self._files: dict[str, Any] = {}

    def __enter__(self) -> MappedFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.clear()
        self._stack.close()

    def tensor(self, stored: StoredTensor) -> torch.Tensor:
        """A stored tensor; nothing of it is read until it is touched.

        Raises:
            CorruptCheckpointError: The file is not what it was when it was described.
        """
        with self._lock:
            if stored.file not in self._files:
                self._files[stored.file] = self._open(self._directory / stored.file)
            file = self._files[stored.file]
        try:
            tensor: torch.Tensor = file[stored.name] if isinstance(file, Mapping) else file.get_tensor(stored.name)
        except Exception as error:  # KeyError, SafetensorError
            raise self._changed(stored.file, summary_of(error)) from error
        if (str(tensor.dtype), tuple(tensor.shape)) != (f"torch.{stored.dtype}", stored.shape):
            raise self._changed(stored.file, f"tensor {stored.name} is another")
        return tensor

    def _open(self, path: Path) -> Any:
        size = path.stat().st_size if path.is_file() else None
        if size != self._sizes[path.name]:
            raise self._changed(path.name, f"{size} bytes instead of {self._sizes[path.name]}")
        if path.suffix == ".safetensors":
            from safetensors import SafetensorError, safe_open

            try:
                return self._stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise self._changed(path.name, summary_of(error)) from error
        if can_be_mapped(path):
            return load_mapped(path)
        return load_unpacked(path, self._scratch) if self._scratch else load_unmappable(path)

    def _changed(self, file: str, what: str) -> CorruptCheckpointError:
        return CorruptCheckpointError(
            path=str(self._directory / file),
            reason=f"changed after it was described ({what})",
            hint="Do not write to a model that is being loaded.",
        )
