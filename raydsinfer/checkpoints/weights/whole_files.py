"""Weights whose tensors are stored whole, in one file or in shards with an index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from raydsinfer.checkpoints.tensors import WHOLE
from raydsinfer.checkpoints.weights.description import Description, LogicalTensor, Piece
from raydsinfer.checkpoints.weights.weight_file import WeightFile, check_names, read_weight_file
from raydsinfer.errors import CorruptCheckpointError

# In the order of preference, which is that of transformers; the second of each pair names the files of a sharded
# checkpoint.
_FORMS = [("model.safetensors", "model.safetensors.index.json"), ("pytorch_model.bin", "pytorch_model.bin.index.json")]


@dataclass(frozen=True)
class WholeFiles:
    """Files that hold tensors whole, safetensors before pickles.

    Args:
        directory: Where they are.
        names: File names, each once.
        index: The file that names them.
        weight_map: Tensor name → file name as the index says; empty for a single file.
    """

    directory: Path
    names: tuple[str, ...]
    index: str = ""
    weight_map: Mapping[str, str] = field(default_factory=dict)

    @property
    def safetensors(self) -> bool:
        """Whether they are safetensors, as opposed to pickles."""
        return self.names[0].endswith(".safetensors")


def find_whole_files(directory: Path) -> WholeFiles | None:
    """The files of a model, or None if the directory has nothing of the kind.

    Raises:
        CorruptCheckpointError: The index cannot be read, names nothing, or a file that it names is missing.
    """
    for single, index in _FORMS:
        if (directory / single).is_file():
            return WholeFiles(directory, (single,))
        if (directory / index).is_file():
            weight_map = _read_index(directory / index)
            names = tuple(dict.fromkeys(weight_map.values()))
            check_names(directory, index, names)
            return WholeFiles(directory, names, index, weight_map)
    return None


def shards_without_index(directory: Path) -> tuple[str, list[str]] | None:
    """The index that is missing and the shards that it should name, if that is so."""
    for single, index in _FORMS:
        stem, suffix = single.split(".")
        shards = sorted(path.name for path in directory.glob(f"{stem}-*-of-*.{suffix}"))
        if shards:
            return index, shards
    return None


def describe_whole_files(files: WholeFiles) -> Description:
    """Describe them.

    Raises:
        CorruptCheckpointError: A file is unreadable, or the files and the index contradict each other.
    """
    read = [read_weight_file(files.directory, name) for name in files.names]
    homes: dict[str, str] = {}
    for file in read:
        for name in file.tensors:
            if name in homes:
                raise _corrupt(files.directory, f"tensor {name} is both in {homes[name]} and in {file.name}")
            homes[name] = file.name
    _check_against_index(files, homes)
    return Description(
        directory=files.directory,
        form="safetensors" if files.safetensors else "bin",
        tensors={name: tensor for file in read for name, tensor in whole_tensors(file).items()},
        files={file.name: file.num_bytes for file in read},
        tied=tuple(chain.from_iterable(file.tied for file in read)),
    )


def whole_tensors(file: WeightFile) -> dict[str, LogicalTensor]:
    """The tensors of a file that holds them whole."""
    return {
        name: LogicalTensor(name=name, dtype=stored.dtype, shape=stored.shape, pieces=(Piece(stored, WHOLE),))
        for name, stored in file.tensors.items()
    }


def _check_against_index(files: WholeFiles, homes: Mapping[str, str]) -> None:
    absent = sorted(set(files.weight_map) - set(homes))
    if absent:
        raise _corrupt(
            files.directory / files.weight_map[absent[0]],
            f"lacks {len(absent)} tensors that the index places there, first {absent[0]}",
        )
    for name, file in files.weight_map.items():
        if homes[name] != file:
            reason = f"places tensor {name} in {file}, but it is in {homes[name]}"
            raise _corrupt(files.directory / files.index, reason)


def _read_index(path: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        if not all(isinstance(text, str) for text in chain.from_iterable(weight_map.items())):
            raise TypeError("weight_map is not file names by tensor name")
        if not weight_map:
            raise ValueError("weight_map is empty")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _corrupt(path, f"not a readable index ({error})") from error
    return dict(weight_map)


def _corrupt(path: Path, reason: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(path=str(path), reason=reason, hint="Fetch the model again.")
