"""The product of activations with int8 weights, for `torch.compile` one operation that it does not look into."""

from __future__ import annotations

import torch
from torch import nn

from raydsinfer.engines.capabilities import AMPERE
from raydsinfer.engines.int8.blocks import blocks_for, most_rows


def dequantised(weight: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Weights as floats.

    Args:
        weight: int8 (outputs, inputs).
        scale: float32 (outputs, 1).
        dtype: Of the result.

    Returns:
        (outputs, inputs): each weight times its scale in float32, rounded once.
    """
    whole = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    return torch.mul(weight, scale, out=whole)


def int8_linear(
    hidden: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, kernel: bool
) -> torch.Tensor:
    """A linear layer.

    Args:
        hidden: (..., inputs).
        weight: int8 (outputs, inputs).
        scale: float32 (outputs, 1).
        bias: (outputs,) in the dtype of `hidden`, if there is one.
        kernel: Whether the kernels work on this device.

    Returns:
        (..., outputs) in the dtype of `hidden`.
    """
    compute = _operation if torch.compiler.is_compiling() else _computed  # an operation takes Python longer to start
    answer: torch.Tensor = compute(hidden, weight, scale, bias, kernel)
    return answer


def _computed(
    hidden: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, kernel: bool
) -> torch.Tensor:
    # The scale goes into the weights or into a sum in float32, never after a sum in float16: that may overflow.
    if not kernel:
        return nn.functional.linear(hidden, dequantised(weight, scale, hidden.dtype), bias)
    from raydsinfer.engines.int8.floats_kernel import make_floats
    from raydsinfer.engines.int8.kernel import int8_matmul

    rows, tensor_cores = hidden.reshape(-1, hidden.shape[-1]), uses_tensor_cores(hidden.device)
    if len(rows) > most_rows(tensor_cores=tensor_cores):
        return nn.functional.linear(hidden, make_floats(weight, scale, hidden.dtype), bias)
    cut = blocks_for(len(rows), *weight.shape, tensor_cores=tensor_cores)
    return int8_matmul(rows, weight, scale, bias, cut).view(*hidden.shape[:-1], weight.shape[0])


def uses_tensor_cores(device: torch.device) -> bool:
    """Whether Triton does so on a GPU."""
    return torch.cuda.get_device_capability(device) >= AMPERE


_operation = torch.library.custom_op("raydsinfer::int8_linear", _computed, mutates_args=())


@_operation.register_fake
def _shape(
    hidden: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, kernel: bool
) -> torch.Tensor:
    return hidden.new_empty((*hidden.shape[:-1], weight.shape[0]))
