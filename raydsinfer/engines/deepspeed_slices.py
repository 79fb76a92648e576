"""Which part of each tensor a rank keeps, asked from DeepSpeed's own layers.

A layer is given the numbers 0, 1, 2, … along its sliced dimension instead of weights; what its
partition method leaves of them is the slice. So there is one truth about uneven heads, fused
query-key-value layouts and summed layers, and it is DeepSpeed's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from deepspeed.module_inject.layers import LinearAllreduce, LinearLayer, TensorParallel_Layer, conv_LinearLayer
from torch import nn

from raydsinfer.checkpoints.tensors import WHOLE, Slice
from raydsinfer.engines.fused_layout import ranges_of
from raydsinfer.errors import UnsupportedError

Shapes = Mapping[str, Sequence[int]]


def autotp_slices(model: nn.Module, shapes: Shapes, rank: int) -> dict[str, Slice]:
    """What a rank keeps of each parameter of a model whose layers AutoTP has replaced.

    Args:
        model: The model after `deepspeed.init_inference`.
        shapes: Shape of each parameter before.
        rank: World rank, which need not be this process's.

    Returns:
        Parameter name → slice, for each parameter.

    Raises:
        UnsupportedError: A layer is sliced in a way that ranges of indices cannot say.
    """
    slices: dict[str, Slice] = {}
    for path, module in model.named_modules():
        sliced = isinstance(module, TensorParallel_Layer)
        for leaf, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{leaf}" if path else leaf
            slices[name] = _layer_slice(path, module, leaf, shapes[name], rank) if sliced else WHOLE
            if not sliced and tuple(parameter.shape) != tuple(shapes[name]):
                raise _unsupported(name, f"a {type(module).__name__} was cut to {tuple(parameter.shape)}")
    return slices


def cuts_rows(layer: nn.Module) -> bool:
    """Whether a layer of AutoTP has some of the outputs; its weights are as torch has them, not transposed."""
    return isinstance(layer, LinearLayer) and not isinstance(layer, conv_LinearLayer)


def _layer_slice(path: str, layer: Any, leaf: str, shape: Sequence[int], rank: int) -> Slice:
    by_row = cuts_rows(layer)
    if not by_row and type(layer).__name__ not in ("LinearAllreduce", "LmHeadLinearAllreduce"):
        raise _unsupported(path, f"{type(layer).__name__} cuts in a way of its own")
    if isinstance(layer, LinearAllreduce) and leaf == "bias":
        return WHOLE  # added after the sum
    dim = 0 if by_row else 1
    indices = torch.arange(shape[dim], dtype=torch.float64)
    numbered = nn.Parameter(indices.reshape(-1, 1) if by_row else indices.reshape(1, -1), requires_grad=False)
    before = layer.tp_index
    # Not copied to the device, and cut as another rank would.
    layer.move, layer.tp_index = _same, rank
    try:
        layer._tp_partition([numbered, None])
    finally:
        del layer.move
        layer.tp_index = before
    return Slice(dim, ranges_of(numbered.data.flatten().long()))


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _unsupported(what: str, why: str) -> UnsupportedError:
    return UnsupportedError(
        what=f"filling {what} slice by slice",
        why=why,
        instead="Use use_meta_tensor=False, and the model as it is instead of a resharded one.",
    )
