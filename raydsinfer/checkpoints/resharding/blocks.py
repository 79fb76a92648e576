"""A part of a tensor, block by block: copied or converted without ever being whole in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from raydsinfer.checkpoints.tensors import Slice

if TYPE_CHECKING:
    import torch

BLOCK_BYTES = 2**20
"""Large enough that a call costs nothing beside its work, small beside any layer."""


def blocks(tensor: torch.Tensor, part: Slice, block_bytes: int = BLOCK_BYTES) -> Iterator[torch.Tensor]:
    """The elements of a part, in order.

    Args:
        tensor: The whole; mapped, so that it takes no memory.
        part: Which part.
        block_bytes: Size of a block, unless a row of a matrix that is cut along its columns is larger.

    Yields:
        One-dimensional tensors; views of `tensor` where they can be.
    """
    import torch

    if part.dim is None:
        yield from _in_order(tensor, block_bytes)
        return
    if not part.ranges:  # of a small dimension the last ranks may get nothing
        return
    if part.dim == 0:
        for start, stop in part.ranges:
            yield from _in_order(tensor[start:stop], block_bytes)
        return
    outer, size, inner = math.prod(tensor.shape[: part.dim]), tensor.shape[part.dim], tensor.shape[part.dim + 1 :]
    rows = tensor.reshape(outer, size, math.prod(inner))
    step = max(1, block_bytes // max(1, rows[:1].nbytes))
    for start in range(0, outer, step):
        pieces = [rows[start : start + step, a:b] for a, b in part.ranges]
        yield (torch.cat(pieces, dim=1) if len(pieces) != 1 else pieces[0]).reshape(-1)


def _in_order(tensor: torch.Tensor, block_bytes: int) -> Iterator[torch.Tensor]:
    if tensor.is_contiguous() or tensor.dim() < 2:
        flat = tensor.contiguous().reshape(-1)
        step = max(1, block_bytes // tensor.element_size())
        for start in range(0, len(flat), step):
            yield flat[start : start + step]
    else:
        for row in tensor:
            yield from _in_order(row, block_bytes)


def convert(block: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, int]:
    """A block in another dtype, and how many finite values became infinite."""
    import torch

    converted = block.to(dtype)
    if torch.finfo(dtype).max >= torch.finfo(block.dtype).max:
        return converted, 0
    infinite = converted.isinf()
    return converted, int((infinite & block.isfinite()).sum()) if infinite.any() else 0


def raw_bytes(block: torch.Tensor) -> memoryview:
    """The bytes of a block, not copied if they lie in a row."""
    import torch

    in_a_row = block.contiguous().as_strided((block.numel(),), (1,))  # a single element may have any stride
    bytes_of: Any = in_a_row.view(torch.uint8).numpy()
    return memoryview(bytes_of)
