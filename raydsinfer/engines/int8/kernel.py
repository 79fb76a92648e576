"""A matrix product that reads int8 weights and makes floats of them on the way, for GPUs; needs Triton."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

_MOST_ROWS = 64  # of a block


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    hidden,  # (rows, inputs)
    weight,  # int8 (outputs, inputs)
    scale,  # float32 (outputs,)
    bias,  # (outputs,); not read without has_bias
    out,  # (rows, outputs)
    num_rows,
    num_outputs,
    num_inputs,
    has_bias: tl.constexpr,
    block_rows: tl.constexpr,
    block_outputs: tl.constexpr,
    block_inputs: tl.constexpr,
):
    rows = tl.program_id(1) * block_rows + tl.arange(0, block_rows)
    outputs = tl.program_id(0) * block_outputs + tl.arange(0, block_outputs)
    inputs = tl.arange(0, block_inputs)
    row_there, output_there = rows < num_rows, outputs < num_outputs
    hidden_at = hidden + rows.to(tl.int64)[:, None] * num_inputs + inputs[None, :]
    weight_at = weight + outputs.to(tl.int64)[None, :] * num_inputs + inputs[:, None]
    total = tl.zeros((block_rows, block_outputs), dtype=tl.float32)
    for start in range(0, num_inputs, block_inputs):
        there = start + inputs < num_inputs
        left = tl.load(hidden_at + start, mask=row_there[:, None] & there[None, :], other=0.0)
        right = tl.load(weight_at + start, mask=output_there[None, :] & there[:, None], other=0)
        total = tl.dot(left, right.to(left.dtype), total)
    total = total * tl.load(scale + outputs, mask=output_there, other=0.0)[None, :]
    if has_bias:
        total += tl.load(bias + outputs, mask=output_there, other=0.0).to(tl.float32)[None, :]
    out_at = out + rows.to(tl.int64)[:, None] * num_outputs + outputs[None, :]
    tl.store(out_at, total.to(out.dtype.element_ty), mask=row_there[:, None] & output_there[None, :])


def int8_matmul(
    hidden: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Activations times weights, summed in float32.

    Args:
        hidden: float16 or bfloat16 (rows, inputs).
        weight: int8 (outputs, inputs), contiguous.
        scale: float32 (outputs, 1).
        bias: (outputs,), if there is one.

    Returns:
        (rows, outputs) in the dtype of `hidden`.
    """
    hidden = hidden.contiguous()
    (num_rows, num_inputs), num_outputs = hidden.shape, weight.shape[0]
    out = torch.empty((num_rows, num_outputs), dtype=hidden.dtype, device=hidden.device)
    rows = min(max(16, triton.next_power_of_2(num_rows)), _MOST_ROWS)
    # Few outputs a block where there are few rows: reading is all there is to do, and every processor should read.
    outputs, inputs = (32, 128) if rows == 16 else (64, 64)
    grid = (triton.cdiv(num_outputs, outputs), triton.cdiv(num_rows, rows))
    launch: Any = _kernel[grid]
    launch(
        hidden,
        weight,
        scale,
        scale if bias is None else bias,
        out,
        num_rows,
        num_outputs,
        num_inputs,
        has_bias=bias is not None,
        block_rows=rows,
        block_outputs=outputs,
        block_inputs=inputs,
        num_warps=4,
        num_stages=4,
    )
    return out
