"""A matrix product that reads int8 weights and makes floats of them on the way, for GPUs; needs Triton."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from raydsinfer.engines.int8.blocks import Blocks, cut_inputs

_BLOCK = 1024  # numbers a program adds up


# Four int8 to four float16: with its sign bit turned, a byte b behind the byte 0x64 is the float16 1152 + b, which is
# exact. A fifth faster than the conversion that the compiler makes, which is one number at a time.
_TO_FLOAT16 = tl.constexpr("""{
.reg .b32 bytes, offset;
xor.b32 bytes, $2, 0x80808080;
mov.b32 offset, 0x64806480;
prmt.b32 $0, bytes, 0x64646464, 0x4140;
prmt.b32 $1, bytes, 0x64646464, 0x4342;
sub.f16x2 $0, $0, offset;
sub.f16x2 $1, $1, offset;
}""")


@triton.jit  # type: ignore[untyped-decorator]
def _product(  # type: ignore[no-untyped-def]
    hidden,  # (rows, inputs)
    weight,  # int8 (outputs, inputs)
    scale,  # float32 (outputs,); not read unless is_whole
    bias,  # (outputs,); not read without has_bias
    out,  # (parts, rows, outputs)
    num_rows,
    num_outputs,
    num_inputs,
    inputs_a_part,
    is_whole: tl.constexpr,  # there is one part
    has_bias: tl.constexpr,
    no_rest: tl.constexpr,  # inputs are a multiple of a block's
    four_at_once: tl.constexpr,  # activations are float16
    block_rows: tl.constexpr,
    block_outputs: tl.constexpr,
    block_inputs: tl.constexpr,
):
    outputs = tl.program_id(0) * block_outputs + tl.arange(0, block_outputs)
    rows = tl.program_id(1) * block_rows + tl.arange(0, block_rows)
    first = tl.program_id(2) * inputs_a_part
    inputs = tl.arange(0, block_inputs)
    # What lies beyond the edge reads what is there, and is not stored.
    weight_at = weight + (outputs % num_outputs).to(tl.int64)[:, None] * num_inputs + inputs[None, :]
    hidden_at = hidden + (rows % num_rows).to(tl.int64)[None, :] * num_inputs + inputs[:, None]
    total = tl.zeros((block_outputs, block_rows), dtype=tl.float32)
    for start in range(first, tl.minimum(first + inputs_a_part, num_inputs), block_inputs):
        if no_rest:
            left = tl.load(weight_at + start)
            right = tl.load(hidden_at + start)
        else:
            there = start + inputs < num_inputs
            left = tl.load(weight_at + start, mask=there[None, :], other=0)
            right = tl.load(hidden_at + start, mask=there[:, None], other=0.0)
        # Weights on the left: there tensor cores take registers, where they have just been made floats.
        if four_at_once:
            left = tl.inline_asm_elementwise(_TO_FLOAT16, "=r,=r,r", [left], dtype=tl.float16, is_pure=True, pack=4)
        total = tl.dot(left.to(right.dtype), right, total)
    output_there, row_there = outputs < num_outputs, rows < num_rows
    if is_whole:
        total = total * tl.load(scale + outputs, mask=output_there, other=0.0)[:, None]
        if has_bias:
            total += tl.load(bias + outputs, mask=output_there, other=0.0).to(tl.float32)[:, None]
    row = tl.program_id(2).to(tl.int64) * num_rows + rows
    out_at = out + row[None, :] * num_outputs + outputs[:, None]
    tl.store(out_at, total.to(out.dtype.element_ty), mask=output_there[:, None] & row_there[None, :])


@triton.jit  # type: ignore[untyped-decorator]
def _sum(  # type: ignore[no-untyped-def]
    parts,  # float32 (parts, rows, outputs)
    scale,
    bias,
    out,  # (rows, outputs)
    num_numbers,  # rows x outputs
    num_outputs,
    num_parts: tl.constexpr,
    has_bias: tl.constexpr,
    block: tl.constexpr,
):
    at = tl.program_id(0) * block + tl.arange(0, block)
    there, output = at < num_numbers, at % num_outputs
    total = tl.zeros((block,), dtype=tl.float32)
    for part in range(num_parts):
        total += tl.load(parts + part * num_numbers + at, mask=there, other=0.0)
    total = total * tl.load(scale + output)
    if has_bias:
        total += tl.load(bias + output).to(tl.float32)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=there)


def int8_matmul(
    hidden: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, cut: Blocks
) -> torch.Tensor:
    """Activations times weights, summed in float32, in the same order each time.

    Args:
        hidden: float16 or bfloat16 (rows, inputs).
        weight: int8 (outputs, inputs), contiguous.
        scale: float32 (outputs, 1).
        bias: (outputs,), if there is one.
        cut: How the work is cut, see `blocks_for`.

    Returns:
        (rows, outputs) in the dtype of `hidden`.
    """
    hidden = hidden.contiguous()
    (num_rows, num_inputs), num_outputs = hidden.shape, weight.shape[0]
    inputs_a_part, num_parts = cut_inputs(num_inputs, cut)
    out = hidden.new_empty((num_rows, num_outputs))
    sums = out if num_parts == 1 else hidden.new_empty((num_parts, num_rows, num_outputs), dtype=torch.float32)
    added = scale if bias is None else bias
    launch: Any = _product[triton.cdiv(num_outputs, cut.outputs), triton.cdiv(num_rows, cut.rows), num_parts]
    launch(
        hidden,
        weight,
        scale,
        added,
        sums,
        num_rows,
        num_outputs,
        num_inputs,
        inputs_a_part,
        is_whole=num_parts == 1,
        has_bias=bias is not None,
        no_rest=num_inputs % cut.inputs == 0,
        four_at_once=hidden.is_cuda and hidden.dtype == torch.float16,  # Triton's interpreter has no assembler
        block_rows=cut.rows,
        block_outputs=cut.outputs,
        block_inputs=cut.inputs,
        num_warps=cut.num_warps,
        num_stages=cut.num_stages,
    )
    if num_parts > 1:
        launch = _sum[(triton.cdiv(out.numel(), _BLOCK),)]
        sizes = {"num_parts": num_parts, "has_bias": bias is not None, "block": _BLOCK}
        launch(sums, scale, added, out, out.numel(), num_outputs, **sizes)
    return out
