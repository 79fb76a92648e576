"""What DeepSpeed's form of weights is made of: tensors of its fused layers, and where their values come from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from raydsinfer.checkpoints.tensors import ITEM_BYTES, Slice

_BLOCK_BYTES = 4096  # of the usual file systems


@dataclass(frozen=True, kw_only=True)
class Region:
    """A part of a tensor of the source, and the elements of a fused tensor that it fills.

    Args:
        source: The tensor's name in the source.
        part: Which part of it.
        offset: Index of the first element that it fills, of the fused tensor's elements in a row.
        shape: Shape of the part.
        stride: Distance of neighbours along each dimension, in elements of the fused tensor.
    """

    source: str
    part: Slice
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class FusedTensor:
    """A tensor as DeepSpeed's modules have it.

    Args:
        names: Its names in the file; several if it is tied.
        shape: Its shape.
        regions: What fills it.
        dtype: In the file; empty until it is decided.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    regions: tuple[Region, ...]
    dtype: str = ""

    @property
    def name(self) -> str:
        """The first of its names."""
        return self.names[0]

    @property
    def num_bytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, kw_only=True)
class FusedRules:
    """How DeepSpeed's fused layers are made from the tensors of a model.

    Args:
        model_type: What DeepSpeed calls the model: ``bloom`` or ``ds_model``.
        whole: Tensors that every rank has whole.
        by_rank: By rank, the tensors of its fused layers; the same names in the same order.
    """

    model_type: str
    whole: Sequence[FusedTensor]
    by_rank: Sequence[Sequence[FusedTensor]]


@dataclass(frozen=True, kw_only=True)
class PickledFile:
    """A file to write with `torch.save`.

    Args:
        name: Its name in the target.
        entries: Its tensors.
    """

    name: str
    entries: tuple[FusedTensor, ...]

    @property
    def num_bytes(self) -> int:
        """About its size: torch adds names, and fills up so that each tensor begins at a multiple of 64 bytes."""
        return sum(entry.num_bytes + 512 + 4 * len(entry.name) for entry in self.entries) + 4096

    @property
    def exact_bytes(self) -> None:
        """Only torch knows."""

    @property
    def scratch_bytes(self) -> int:
        """All tensors are put together before `torch.save`, each in a file of its own, which takes whole blocks."""
        return sum(-(-entry.num_bytes // _BLOCK_BYTES) * _BLOCK_BYTES for entry in self.entries)
