"""DeepSpeed's fused layers on a CPU: each kernel's own PyTorch version, and those that have to be right.

What is repaired here are mistakes of the PyTorch versions alone. What the CUDA kernels compute otherwise than
transformers is not repaired here but in the adapters, which run on both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

Activation = Callable[[torch.Tensor], torch.Tensor]


class _NoCompiledOps:
    """Has no attributes, so every op falls back to DeepSpeed's PyTorch version."""


def use_pytorch_fallbacks() -> None:
    """Make DeepSpeed's ops take their PyTorch versions; must come before the layers are made."""
    from deepspeed.ops.transformer.inference.op_binding.base import BaseOp

    # Without this the op builder tries to compile CUDA code and raises on a machine without nvcc.
    BaseOp.inference_module = _NoCompiledOps()


def repair(model: nn.Module, activation: str) -> None:
    """Put right the PyTorch versions of the ops of a model's fused layers.

    Args:
        model: Whose layers DeepSpeed has replaced.
        activation: transformers' name of the activation within the MLP.
    """
    from deepspeed.ops.transformer.inference.op_binding.mlp_gemm import MLPGemmOp
    from deepspeed.utils.types import NormType
    from transformers.activations import ACT2FN

    act = ACT2FN[activation]
    for module in model.modules():
        if isinstance(module, MLPGemmOp) and module.config.norm_type == NormType.LayerNorm:
            module.mlp_gemm_func = partial(mlp_gemm, act)


def mlp_gemm(
    act: Activation,
    attention: torch.Tensor,
    residual: torch.Tensor,
    attention_bias: torch.Tensor | None,
    weight_in: torch.Tensor,
    weight_out: torch.Tensor,
    bias_in: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    eps: float,
    pre_layer_norm: bool,
    mlp_after_attn: bool,
    *flags: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Layer norm, then both MLP products with an activation between them.

    DeepSpeed's PyTorch version always applies GELU, and has no MLP beside the attention.

    Args:
        act: The activation.
        attention: The attention's output, (batch, tokens, hidden).
        residual: The layer's input, of the same shape.
        attention_bias: Added to the attention's output.
        weight_in: (hidden, inner), as `weight_out` the other way round; transposed if the last flag says so.
        weight_out: (inner, hidden).
        bias_in: (inner,).
        gamma: Weight of the norm.
        beta: Bias of the norm.
        eps: Of the norm.
        pre_layer_norm: Not used; the norm comes first.
        mlp_after_attn: Whether the MLP reads the attention's output, or the layer's input beside it.
        flags: Of quantisation, which do not matter in floating point, and the last.
    """
    transposed = flags[-1]
    if mlp_after_attn:
        residual = attention + residual
        residual = residual if attention_bias is None else residual + attention_bias
    hidden = functional.layer_norm(residual, (residual.shape[-1],), gamma, beta, eps)
    inner = act(hidden @ (weight_in.t() if transposed else weight_in) + bias_in)
    return inner @ (weight_out.t() if transposed else weight_out), hidden
