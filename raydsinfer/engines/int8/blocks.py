"""How the product with int8 weights is cut into blocks, by the size of its matrices."""

from __future__ import annotations

from typing import NamedTuple


class Blocks(NamedTuple):
    """What one program of the kernel computes, and how.

    Attributes:
        outputs: Of a block.
        rows: Of a block.
        inputs: Read at a time.
        parts: Into which the inputs are cut, so that every processor has work; their sums are added up afterwards.
        num_warps: Of a program.
        num_stages: Blocks of inputs that are on their way at a time.
    """

    outputs: int
    rows: int
    inputs: int
    parts: int
    num_warps: int = 4
    num_stages: int = 3


# Measured on an H200 with layers of OPT-13b (docs/benchmarks.md); no more memory of a processor than older GPUs have.
_WAYS = {16: (128, 128), 32: (64, 128), 64: (64, 128), 128: (64, 64)}  # rows of a block → outputs, inputs
_ENOUGH_PROGRAMS, _WANTED_PROGRAMS, _MOST_PARTS = 200, 400, 8


def blocks_for(num_rows: int, num_outputs: int, num_inputs: int) -> Blocks:
    """The blocks for a product.

    Inputs are cut into parts where there would be too few programs for the processors of a large GPU.

    Args:
        num_rows: Of activations.
        num_outputs: Of the weights.
        num_inputs: Likewise.
    """
    rows = next((size for size in _WAYS if num_rows <= size), max(_WAYS))
    outputs, inputs = _WAYS[rows]
    programs = _pieces(num_outputs, outputs) * _pieces(num_rows, rows)
    parts = 1
    if programs < _ENOUGH_PROGRAMS:
        while parts < _MOST_PARTS and programs * parts < _WANTED_PROGRAMS:
            parts *= 2
    return Blocks(outputs, rows, inputs, min(parts, _pieces(num_inputs, inputs)))


def _pieces(whole: int, piece: int) -> int:
    return -(-whole // piece)
