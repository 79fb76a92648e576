"""How the product with int8 weights is cut into blocks, by the size of its matrices: pure."""

from __future__ import annotations

from typing import NamedTuple

KERNEL_ROWS = 256
"""Rows up to which the kernel multiplies integers. With more, arithmetic takes longer than reading, and torch's
products are best at that: then floats are made first. With 256 rows both took as long on an H200 (docs/benchmarks.md).
"""

# Measured on an H200 with layers of OPT-13b (docs/benchmarks.md).
_WAYS = {16: (128, 128), 32: (64, 128), 64: (64, 128), 128: (64, 64)}  # rows of a block → outputs, inputs
# Triton uses no tensor cores before Ampere, and what is above does not fit in the registers there: chosen by what the
# compiler says of registers, not measured. With more rows torch's products, which do use them, should be ahead.
_WITHOUT_TENSOR_CORES = {16: (32, 64)}
_ENOUGH_PROGRAMS, _WANTED_PROGRAMS, _MOST_PARTS = 200, 400, 8


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


def most_rows(*, tensor_cores: bool) -> int:
    """Rows up to which the kernel multiplies integers.

    Args:
        tensor_cores: Whether Triton uses them on the device.
    """
    return KERNEL_ROWS if tensor_cores else max(_WITHOUT_TENSOR_CORES)


def blocks_for(num_rows: int, num_outputs: int, num_inputs: int, *, tensor_cores: bool) -> Blocks:
    """The blocks for a product.

    Inputs are cut into parts where there would be too few programs for the processors of a large GPU.

    Args:
        num_rows: Of activations.
        num_outputs: Of the weights.
        num_inputs: Likewise.
        tensor_cores: Whether Triton uses them on the device.
    """
    ways = _WAYS if tensor_cores else _WITHOUT_TENSOR_CORES
    rows = next((size for size in ways if num_rows <= size), max(ways))
    outputs, inputs = ways[rows]
    programs = _pieces(num_outputs, outputs) * _pieces(num_rows, rows)
    parts = 1
    if programs < _ENOUGH_PROGRAMS:
        while parts < _MOST_PARTS and programs * parts < _WANTED_PROGRAMS:
            parts *= 2
    return Blocks(outputs, rows, inputs, parts)


def cut_inputs(num_inputs: int, cut: Blocks) -> tuple[int, int]:
    """Whole blocks for each part, none of them empty.

    Args:
        num_inputs: Of the weights.
        cut: With the number of parts that is wanted.

    Returns:
        Inputs of a part (the last one may have fewer), and the number of parts.
    """
    inputs_a_part = _pieces(_pieces(num_inputs, cut.inputs), cut.parts) * cut.inputs
    return inputs_a_part, _pieces(num_inputs, inputs_a_part)


def _pieces(whole: int, piece: int) -> int:
    return -(-whole // piece)
