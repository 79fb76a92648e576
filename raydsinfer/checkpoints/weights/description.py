"""Weights as a model sees them: named tensors, whatever files and pieces they are stored in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raydsinfer.checkpoints.tensors import ITEM_BYTES, Slice, StoredTensor

Form = Literal["safetensors", "bin", "ranks", "deepspeed"]


@dataclass(frozen=True)
class Piece:
    """A part of a tensor, and where it is stored.

    Args:
        tensor: Where.
        slice: Which part; None where only DeepSpeed knows.
    """

    tensor: StoredTensor
    slice: Slice | None


@dataclass(frozen=True, kw_only=True)
class LogicalTensor:
    """One tensor of a model.

    Args:
        name: Its name.
        dtype: torch's name of the dtype.
        shape: Of the whole; of rank 0's piece where the whole is not known.
        pieces: By rank, or one that all ranks share.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole; of all pieces where the whole is not known."""
        if any(piece.slice is None for piece in self.pieces):
            return sum(piece.tensor.num_bytes for piece in self.pieces)
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    def piece_of(self, rank: int) -> Piece:
        """What is stored for a rank."""
        return self.pieces[rank] if len(self.pieces) > 1 else self.pieces[0]


@dataclass(frozen=True, kw_only=True)
class Description:
    """Weights in a directory.

    Args:
        directory: Where they are.
        form: How they are stored.
        tensors: By name.
        files: Name of each file that holds weights → its bytes.
        tp_size: Ranks that they were cut for; None if they serve any number.
        tied: Groups of names that are one tensor.
    """

    directory: Path
    form: Form
    tensors: Mapping[str, LogicalTensor]
    files: Mapping[str, int]
    tp_size: int | None = None
    tied: tuple[frozenset[str], ...] = ()

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors; tied ones count once."""
        again = {name for group in self.tied for name in sorted(group & set(self.tensors))[1:]}
        return sum(tensor.num_bytes for name, tensor in self.tensors.items() if name not in again)
