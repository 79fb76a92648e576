"""Weights on disk: which file holds which tensor, read one tensor at a time."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydsinfer.errors import CheckpointError, CorruptCheckpointError, summary_of

if TYPE_CHECKING:
    import torch

# In the order of preference; the second of each pair names the files of a sharded checkpoint.
_FORMS = [("model.safetensors", "model.safetensors.index.json"), ("pytorch_model.bin", "pytorch_model.bin.index.json")]


@dataclass(frozen=True)
class WeightFiles:
    """The files that hold a model's weights.

    Args:
        directory: Where they are.
        names: File names, each once, in the order of the index.
        expected: Tensor name → file name as the index says; empty for a single file.
    """

    directory: Path
    names: tuple[str, ...]
    expected: dict[str, str]

    @property
    def safetensors(self) -> bool:
        """Whether they are safetensors, as opposed to pickled `.bin` files."""
        return self.names[0].endswith(".safetensors")


def find_weights(directory: Path) -> WeightFiles:
    """Find the weights of a model and check that every file is there.

    Raises:
        CheckpointError: The directory has no weights that can be read.
        CorruptCheckpointError: The index cannot be read, or a file that it names is missing.
    """
    for single, index in _FORMS:
        if (directory / index).is_file():
            return _sharded(directory, index)
        if (directory / single).is_file():
            return WeightFiles(directory, (single,), {})
    found = ", ".join(sorted(p.name for p in directory.iterdir())) or "nothing"
    raise CheckpointError(
        path=str(directory),
        reason=f"no weights: found {found}",
        hint="Expected model.safetensors or pytorch_model.bin, whole or in shards with their index.",
    )


def _sharded(directory: Path, index: str) -> WeightFiles:
    try:
        weight_map = json.loads((directory / index).read_text())["weight_map"]
        names = tuple(dict.fromkeys(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptCheckpointError(
            path=str(directory / index), reason=f"not a readable index ({error})", hint="Fetch the model again."
        ) from error
    # The index is data from elsewhere: it must not reach out of the model's directory.
    outside = [name for name in names if Path(name).name != name]
    missing = [name for name in names if not (directory / name).is_file()]
    for bad, reason in ((outside, "names a file outside the model's directory"), (missing, "names a missing file")):
        if bad:
            raise CorruptCheckpointError(
                path=str(directory / index), reason=f"{reason}: {', '.join(bad[:5])}", hint="Fetch the model again."
            )
    return WeightFiles(directory, names, weight_map)


class TensorReader:
    """Reads tensors one by one, without holding the file in memory.

    Safetensors are mapped. `.bin` files are mapped too and unpickled with `weights_only=True`, so
    that they can hold nothing but tensors. A context manager.

    Args:
        files: What `find_weights` found.

    Raises:
        CorruptCheckpointError: A file is truncated or unreadable, or lacks a tensor that the index
            places there.
    """

    def __init__(self, files: WeightFiles) -> None:
        self._files, self._stack, self._homes = files, ExitStack(), {}
        try:
            for name in files.names:
                opened = self._open(files.directory / name)
                self._homes.update(dict.fromkeys(opened.keys(), opened))
            absent = sorted(set(files.expected) - set(self._homes))
            if absent:
                raise CorruptCheckpointError(
                    path=str(files.directory / files.expected[absent[0]]),
                    reason=f"lacks {len(absent)} tensors that the index places there, first {absent[0]}",
                    hint="Fetch the model again.",
                )
        except BaseException:
            self._stack.close()
            raise

    _homes: dict[str, Any]

    def _open(self, path: Path) -> Any:
        try:
            if self._files.safetensors:
                from safetensors import safe_open

                return self._stack.enter_context(safe_open(path, framework="pt"))
            import torch

            # Files of before torch 1.6 are no zip archives and cannot be mapped.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except Exception as error:  # SafetensorError, UnpicklingError, RuntimeError, OSError, …
            raise CorruptCheckpointError(
                path=str(path),
                reason=f"truncated or unreadable ({summary_of(error)})",
                hint="Fetch the model again.",
            ) from error

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._homes.clear()
        self._stack.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __contains__(self, name: object) -> bool:
        return name in self._homes

    def read(self, name: str) -> torch.Tensor:
        """The whole tensor, on the CPU, in the dtype on disk."""
        home = self._homes[name]
        tensor: torch.Tensor = home.get_tensor(name) if self._files.safetensors else home[name]
        return tensor
