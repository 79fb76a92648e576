"""Reads tensors, or the part that a rank keeps, from weights of any form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from raydsinfer.checkpoints.tensors import Slice, fits, in_words, is_whole, within
from raydsinfer.checkpoints.weights.description import Description, LogicalTensor
from raydsinfer.checkpoints.weights.mapped import MappedFiles
from raydsinfer.errors import CheckpointError

if TYPE_CHECKING:
    import torch


class TensorReader:
    """Reads tensors for one rank; files are mapped, and nothing is read until it is touched.

    Several threads may use it. A context manager: what it returned is not to be used afterwards.

    Args:
        description: The weights.
        rank: Who reads.
        tp_size: Number of ranks.
        scratch: Directory on this node for copies of pickles that cannot be mapped, so that its ranks
            share one; None reads such pickles into memory.

    Raises:
        CheckpointError: The weights were cut for another number of ranks.
    """

    def __init__(
        self, description: Description, *, rank: int = 0, tp_size: int = 1, scratch: Path | None = None
    ) -> None:
        if not 0 <= rank < tp_size:
            raise ValueError(f"rank {rank} of {tp_size}")
        if description.tp_size not in (None, tp_size):
            raise CheckpointError(
                path=str(description.directory),
                reason=f"the weights were cut for tensor-parallel size {description.tp_size}, not {tp_size}",
                hint=f"Use {description.tp_size} ranks, or cut the original weights anew: "
                f"raydsinfer reshard SRC DST --layout ranks --tp {tp_size}.",
            )
        self._description, self._rank = description, rank
        self._files = MappedFiles(description.directory, description.files, scratch)

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.__exit__()

    def __iter__(self) -> Iterator[str]:
        return iter(self._description.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the whole tensor; of this rank's piece where the whole is not known."""
        tensor = self._description.tensors[name]
        piece = tensor.piece_of(self._rank)
        return tensor.shape if piece.slice is not None else piece.tensor.shape

    def read(self, name: str) -> torch.Tensor:
        """The whole tensor, on the CPU, in the dtype on disk; this rank's piece where the whole is not known.

        Mapped where it is stored in one piece, else put together from the pieces of all ranks.
        """
        tensor = self._description.tensors[name]
        piece = tensor.piece_of(self._rank)
        if piece.slice is None or is_whole(piece.slice, tensor.shape):
            return self._files.tensor(piece.tensor)
        return self._joined(tensor)

    def parts(self, name: str, wanted: Slice) -> list[torch.Tensor]:
        """What a rank keeps of a tensor, as views of the mapped file.

        Args:
            name: Of the tensor; not one that DeepSpeed cut, of which only it knows the parts.
            wanted: Which part.

        Returns:
            Views that joined along ``wanted.dim`` are the part.

        Raises:
            CheckpointError: The tensor has no such part, or another was cut out for this rank.
        """
        tensor = self._description.tensors[name]
        stored = self._stored(tensor, wanted)
        mapped = self._files.tensor(tensor.piece_of(self._rank).tensor)
        dim = stored.dim
        if dim is None:
            return [mapped]
        return [mapped.narrow(dim, start, stop - start) for start, stop in stored.ranges or [(0, 0)]]

    def _stored(self, tensor: LogicalTensor, wanted: Slice) -> Slice:
        """Which part of what is stored for this rank is wanted."""
        cut = tensor.piece_of(self._rank).slice
        assert cut is not None  # noqa: S101  (what fills DeepSpeed's own form reads it whole)
        path = str(self._description.directory)
        if not fits(wanted, tensor.shape):
            reason = f"tensor {tensor.name} of shape {tensor.shape} has no part {in_words(wanted)}"
            raise CheckpointError(path=path, reason=reason, hint="Check config.json: it does not fit the weights.")
        stored = within(wanted, cut, tensor.shape)
        if stored is None:
            raise CheckpointError(
                path=path,
                reason=f"of tensor {tensor.name} rank {self._rank} needs {in_words(wanted)}, "
                f"but {in_words(cut)} was cut out for it",
                hint="Run raydsinfer reshard again, with this version.",
            )
        return stored

    def _joined(self, tensor: LogicalTensor) -> torch.Tensor:
        import torch

        whole = torch.empty(tensor.shape, dtype=getattr(torch, tensor.dtype))
        slices = [piece.slice for piece in tensor.pieces if piece.slice is not None]
        dim = slices[0].dim or 0
        missing = set(range(tensor.shape[dim]))
        for piece, part in zip(tensor.pieces, slices, strict=True):
            stored, at = self._files.tensor(piece.tensor), 0
            for start, stop in part.ranges:
                size = stop - start
                whole.narrow(dim, start, size).copy_(stored.narrow(dim, at, size))
                missing.difference_update(range(start, stop))
                at += size
        if missing:
            raise CheckpointError(
                path=str(self._description.directory),
                reason=f"no rank has index {min(missing)} of tensor {tensor.name}, so the whole is not there",
                hint="Use the original weights.",
            )
        return whole
