"""Pickled weights (`.bin`, `.pt`), opened so that they can hold nothing but tensors."""

from __future__ import annotations

import pickle  # its exception only
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydsinfer.checkpoints.tensors import ITEM_BYTES, StoredTensor
from raydsinfer.errors import CorruptCheckpointError, summary_of

if TYPE_CHECKING:
    import torch


def read_pickle(path: Path) -> tuple[dict[str, StoredTensor], tuple[frozenset[str], ...]]:
    """The tensors of a pickle by name, and groups of names that are one tensor; no values are read.

    Raises:
        CorruptCheckpointError: It is truncated or unreadable, or carries anything but tensors.
    """
    content = load_mapped(path) if can_be_mapped(path) else load_unmappable(path, values=False)
    tensors: dict[str, StoredTensor] = {}
    same: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for name, value in content.items():
        dtype = str(value.dtype).removeprefix("torch.")
        tensors[name] = StoredTensor(name=name, file=path.name, dtype=dtype, shape=tuple(value.shape))
        if value.numel():
            same[value.data_ptr(), value.dtype, value.shape, value.stride()].add(name)
    return tensors, tuple(frozenset(names) for names in same.values() if len(names) > 1)


def can_be_mapped(path: Path) -> bool:
    """Whether a pickle is a zip archive; those of torch before 1.6 are not."""
    return zipfile.is_zipfile(path)


def load_mapped(path: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a pickle that is a zip archive, mapped into memory: nothing is read until touched.

    Raises:
        CorruptCheckpointError: It is truncated or unreadable, or carries anything but tensors.
    """
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
                raise ValueError("the archive is compressed, which torch.save never does")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # UnpicklingError, RuntimeError, BadZipFile, OSError, …
        raise _refused(path, error) from error
    return _only_tensors(path, content)


def load_unmappable(
    path: Path, *, values: bool = True, place: Callable[[Any], Any] | None = None
) -> Mapping[str, torch.Tensor]:
    """The tensors of a pickle from before zip archives.

    Args:
        path: The file.
        values: Whether to read the values; without them, memory is only reserved.
        place: Called for each storage before it is read; what it returns is read into.

    Raises:
        CorruptCheckpointError: It is truncated or unreadable, or carries anything but tensors.
    """
    import torch

    end = 0

    def located(storage: Any, _: str) -> Any:
        nonlocal end
        end += 8 + storage.nbytes()  # each is stored after its length
        return place(storage) if place else storage

    try:
        with path.open("rb") as file, nullcontext() if values else torch.serialization.skip_data():
            content = torch.load(file, map_location=located, weights_only=True)
            end += file.tell()
        if not values and path.stat().st_size < end:
            raise EOFError(f"{path.stat().st_size} bytes instead of {end}")
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError, OSError, …
        raise _refused(path, error) from error
    return _only_tensors(path, content)


def _only_tensors(path: Path, content: object) -> Mapping[str, torch.Tensor]:
    import torch

    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise _corrupt(path, f"holds {type(content).__name__}, not tensors by name")
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            quantised = ": DeepSpeed's int8, which cannot be loaded" if isinstance(value, list) else ""
            raise _corrupt(path, f"{name} is no tensor but {type(value).__name__}{quantised}")
        if value.layout != torch.strided or str(value.dtype).removeprefix("torch.") not in ITEM_BYTES:
            raise _corrupt(path, f"tensor {name} is {value.dtype} ({value.layout}), which cannot be loaded")
    return {name: value.detach() for name, value in content.items()}


def _refused(path: Path, error: Exception) -> CorruptCheckpointError:
    # torch's text also says how to load the file with its code running: that part is left out.
    asked = re.search(r"GLOBAL ([\w.]+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and asked:
        return CorruptCheckpointError(
            path=str(path),
            reason=f"refused: it carries code, not only tensors (it asks for {asked.group(1)})",
            hint="Do not load it with other tools either; look for safetensors of this model.",
        )
    unreadable = isinstance(error, pickle.UnpicklingError)
    summary = "not a pickle of tensors" if unreadable else summary_of(error).partition(". ")[0]
    return _corrupt(path, f"truncated or unreadable ({summary})")


def _corrupt(path: Path, reason: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(path=str(path), reason=reason, hint="Fetch the model again.")
