"""Whether the kernel for int8 weights works here: it is compiled on the node, and a device may be too old for it."""

from __future__ import annotations

import logging

import torch
from torch import nn

from raydsinfer.engines.base import RankContext
from raydsinfer.engines.continuous.agreement import Agreement
from raydsinfer.engines.int8.blocks import KERNEL_ROWS
from raydsinfer.engines.int8.linear import Int8Linear
from raydsinfer.engines.int8.product import int8_linear
from raydsinfer.engines.int8.replace import int8_layers
from raydsinfer.errors import summary_of

logger = logging.getLogger(__name__)

_ROWS = (1, 17, 33, KERNEL_ROWS, KERNEL_ROWS + 1)  # each size of block, and floats that are made first
_TOLERANCE = 0.02  # of the largest output: the kernel does not round weights to 16 bits, the product of floats does


def use_kernel(model: nn.Module, context: RankContext) -> bool:
    """Let a model's int8 layers use the kernel if it gives right products on all ranks; returns whether it does.

    Layers that are not cut have to give the same products on each rank.

    Without it weights are made floats for each product: they still take half the memory, but each step takes longer
    than with float16.

    Args:
        model: On a GPU, its int8 layers filled.
        context: Where this rank stands; all ranks of its gang call this.
    """
    layers = int8_layers(model)
    # What is compiled depends on the sizes of a layer, and whether it has a bias.
    kinds = {(layer.out_features, layer.in_features, layer.bias is None): layer for layer in layers.values()}
    problem = next(filter(None, map(kernel_problem, kinds.values())), "")
    if Agreement(context).largest(bool(problem)):
        why = problem or "another rank cannot use the kernel"
        logger.warning("int8 weights are made floats in every step, which is slower: %s", why)
        return False
    for layer in layers.values():
        layer.kernel = True
    return True


def kernel_problem(layer: Int8Linear) -> str:
    """Why the kernel cannot be used; empty if it can. Compares its products with those of floats."""
    generator = torch.Generator().manual_seed(0)
    try:
        for rows in _ROWS:
            hidden = torch.randn(rows, layer.in_features, generator=generator).to(layer.weight.device, layer.dtype)
            plain, fast = (
                int8_linear(hidden, layer.weight, layer.scale, layer.bias, kernel) for kernel in (False, True)
            )
            error = ((fast - plain).abs().max() / plain.abs().max().clamp(min=1e-6)).item()
            if not error <= _TOLERANCE:
                return f"Triton's products of {rows} rows differ from torch's by {error:.1%}"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no Triton, no C compiler, a device that it does not know, …
        return summary_of(error)
    return ""
