"""Weights that `raydsinfer reshard` cut for a number of ranks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from raydsinfer.checkpoints.tensors import StoredTensor
from raydsinfer.checkpoints.weights.description import Description, LogicalTensor, Piece
from raydsinfer.checkpoints.weights.ranks_index import RANKS_INDEX, RankedTensor, RanksIndex, read_ranks_index
from raydsinfer.checkpoints.weights.weight_file import WeightFile, check_names, read_weight_file
from raydsinfer.errors import CorruptCheckpointError


def describe_ranks(directory: Path) -> Description:
    """Describe weights that have a `raydsinfer_ranks.json`.

    Raises:
        CorruptCheckpointError: A file is missing or unreadable, or is not what the index says.
    """
    index = read_ranks_index(directory)
    check_names(directory, RANKS_INDEX, index.files)
    files = {name: _read(directory, name, index.files[name].bytes) for name in index.files}
    _check_nothing_is_left(directory, index, files)
    return Description(
        directory=directory,
        form="ranks",
        tensors={name: _logical(directory, index, files, name) for name in index.tensors},
        files={name: file.num_bytes for name, file in files.items()},
        tp_size=index.tp_size,
        tied=tuple(frozenset(names) for names in index.tied),
    )


def _read(directory: Path, name: str, num_bytes: int) -> WeightFile:
    size = (directory / name).stat().st_size
    if size != num_bytes:
        raise _corrupt(directory / name, f"has {size} bytes instead of {num_bytes}")
    return read_weight_file(directory, name)


def _check_nothing_is_left(directory: Path, index: RanksIndex, files: Mapping[str, WeightFile]) -> None:
    placed = {(file, name) for homes in (index.shared, *index.by_rank) for name, file in homes.items()}
    for file in files.values():
        for name in file.tensors:
            if (file.name, name) not in placed:
                raise _corrupt(directory / file.name, f"holds tensor {name}, which {RANKS_INDEX} does not place there")


def _logical(directory: Path, index: RanksIndex, files: Mapping[str, WeightFile], name: str) -> LogicalTensor:
    tensor = index.tensors[name]
    homes = [index.shared[name]] if tensor.shared else [homes[name] for homes in index.by_rank]
    pieces = tuple(
        Piece(_stored(directory, files[home], name, tensor, rank), tensor.slice_of(rank))
        for rank, home in enumerate(homes)
    )
    return LogicalTensor(name=name, dtype=tensor.dtype, shape=tensor.shape, pieces=pieces)


def _stored(directory: Path, file: WeightFile, name: str, tensor: RankedTensor, rank: int) -> StoredTensor:
    stored = file.tensors.get(name)
    if stored is None:
        raise _corrupt(directory / file.name, f"lacks tensor {name}, which {RANKS_INDEX} places there")
    shape = tensor.slice_of(rank).shape_of(tensor.shape)
    if (stored.dtype, stored.shape) != (tensor.dtype, shape):
        reason = f"tensor {name} is {stored.dtype} {stored.shape} instead of {tensor.dtype} {shape}"
        raise _corrupt(directory / file.name, reason)
    return stored


def _corrupt(path: Path, reason: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(path=str(path), reason=reason, hint="Run raydsinfer reshard again.")
