"""The index of weights that were cut for a number of ranks: `raydsinfer_ranks.json`."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from raydsinfer.checkpoints.tensors import ITEM_BYTES, WHOLE, Slice
from raydsinfer.errors import CorruptCheckpointError, summary_of

RANKS_INDEX = "raydsinfer_ranks.json"

Count = Annotated[int, Field(ge=0)]
Range = tuple[Count, Count]


@dataclass(frozen=True, kw_only=True)
class RankedTensor:
    """A tensor as it was before it was cut, and which part of it each rank has.

    Args:
        dtype: torch's name of the dtype.
        shape: Of the whole.
        dim: The dimension along which it is cut; None means that all ranks share the whole.
        ranks: By rank, the half-open ranges of indices it has, in its order; None with `dim` None.
    """

    dtype: str
    shape: tuple[Count, ...]
    dim: Count | None = None
    ranks: tuple[tuple[Range, ...], ...] | None = None

    @classmethod
    def cut(cls, *, dtype: str, shape: tuple[int, ...], slices: tuple[Slice, ...]) -> RankedTensor:
        """Describe a tensor of which rank ``i`` has ``slices[i]``: all of them whole, or all along one dimension."""
        dims = {part.dim for part in slices}
        if dims == {None}:
            return cls(dtype=dtype, shape=shape)
        if len(dims) != 1:
            raise ValueError(f"the ranks cut along different dimensions: {slices}")
        return cls(dtype=dtype, shape=shape, dim=slices[0].dim, ranks=tuple(part.ranges for part in slices))

    @property
    def shared(self) -> bool:
        """Whether all ranks have the whole."""
        return self.ranks is None

    def slice_of(self, rank: int) -> Slice:
        """What a rank has."""
        return WHOLE if self.ranks is None else Slice(self.dim, self.ranks[rank])


@dataclass(frozen=True, kw_only=True)
class FileSum:
    """What a file must be.

    Args:
        bytes: Its size.
        sha256: Of its content, in hexadecimal.
    """

    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, kw_only=True)
class RanksIndex:
    """Which rank finds which tensor where.

    Args:
        tp_size: Ranks that the weights were cut for.
        source: Where they come from, for people; no secrets.
        tied: Groups of tensor names that are one parameter of the model; some may not be stored.
        tensors: Tensor name → how it is cut.
        files: File name → size and checksum, of every file that holds weights.
        shared: Tensor name → file, for tensors that all ranks have whole.
        by_rank: By rank, tensor name → file, for the others.
        version: Of this form.
    """

    tp_size: Annotated[int, Field(ge=1)]
    tensors: Mapping[str, RankedTensor]
    files: Mapping[str, FileSum]
    shared: Mapping[str, str]
    by_rank: tuple[Mapping[str, str], ...]
    source: Mapping[str, Any]
    tied: tuple[tuple[str, ...], ...] = ()
    version: Literal[1] = 1


def read_ranks_index(directory: Path) -> RanksIndex:
    """Read the index of a directory and check that it agrees with itself; the weights are not looked at.

    Raises:
        CorruptCheckpointError: It cannot be read, or contradicts itself.
    """
    path = directory / RANKS_INDEX
    try:
        index = TypeAdapter(RanksIndex).validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "it"
        raise _corrupt(path, f"not a readable index ({where}: {first['msg']})") from None
    except OSError as error:
        raise _corrupt(path, f"not a readable index ({summary_of(error)})") from error
    problem = next(_contradictions(index), None)
    if problem:
        raise _corrupt(path, problem)
    return index


def write_ranks_index(directory: Path, index: RanksIndex) -> Path:
    """Write the index, whole or not at all; weights count as complete from then on, so write it last.

    Raises:
        CorruptCheckpointError: The index contradicts itself; nothing is written.
        OSError: The disk does not take it.
    """
    path = directory / RANKS_INDEX
    problem = next(_contradictions(index), None)
    if problem:
        raise _corrupt(path, problem)
    part = directory / f".{RANKS_INDEX}.{uuid.uuid4().hex[:8]}"
    try:
        with part.open("w") as file:
            json.dump(asdict(index), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _corrupt(path: Path, reason: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(path=str(path), reason=reason, hint="Run raydsinfer reshard again.")


def _contradictions(index: RanksIndex) -> Iterator[str]:
    """What is wrong with an index, in words."""
    if len(index.by_rank) != index.tp_size:
        yield f"made for {index.tp_size} ranks but lists files of {len(index.by_rank)}"
        return
    used = {file for files in (index.shared, *index.by_rank) for file in files.values()}
    yield from (
        f"names a file outside the directory: {file}" for file in sorted(used | set(index.files)) if _outside(file)
    )
    yield from (f"gives no size of the file {file}" for file in sorted(used - set(index.files)))
    for name in sorted({name for files in (index.shared, *index.by_rank) for name in files} - set(index.tensors)):
        yield f"gives a file of the tensor {name} but not its shape"
    for name, tensor in index.tensors.items():
        yield from (f"tensor {name}: {problem}" for problem in _cut_wrongly(tensor, index.tp_size))
        absent = [rank for rank, files in enumerate(index.by_rank) if (name in files) == tensor.shared]
        if (name in index.shared) != tensor.shared or absent:
            yield f"tensor {name} is {'shared' if tensor.shared else 'cut'} but its files say otherwise"
    for group in index.tied:
        if not any(name in index.tensors for name in group):
            yield f"none of the tied tensors {', '.join(group)} is stored"


def _cut_wrongly(tensor: RankedTensor, tp_size: int) -> Iterator[str]:
    if tensor.dtype not in ITEM_BYTES:
        yield f"unknown dtype {tensor.dtype}"
    if (tensor.dim is None) != (tensor.ranks is None):
        yield "has a dimension or ranges, but not both"
    elif tensor.dim is not None and tensor.ranks is not None:
        if tensor.dim >= len(tensor.shape):
            yield f"has no dimension {tensor.dim}: its shape is {tensor.shape}"
        elif len(tensor.ranks) != tp_size:
            yield f"is cut for {len(tensor.ranks)} ranks instead of {tp_size}"
        else:
            size = tensor.shape[tensor.dim]
            wrong = [r for part in tensor.ranks for r in part if not 0 <= r[0] < r[1] <= size]
            yield from (f"range {start} to {stop} does not lie in 0 to {size}" for start, stop in wrong)


def _outside(file: str) -> bool:
    return Path(file).name != file
