"""DeepSpeed's fused layers on a CPU: each kernel's own PyTorch version, and the one that has to be right."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class _NoCompiledOps:
    """Has no attributes, so every op falls back to DeepSpeed's PyTorch version."""


def use_pytorch_fallbacks() -> None:
    """Make DeepSpeed's ops take their PyTorch versions; must come before the layers are made."""
    from deepspeed.ops.transformer.inference.op_binding.base import BaseOp

    # Without this the op builder tries to compile CUDA code and raises on a machine without nvcc.
    BaseOp.inference_module = _NoCompiledOps()


def fix_activations(model: nn.Module) -> None:
    """Give the fused MLPs of `model` their own activation: DeepSpeed's fallback always applies GELU."""
    from deepspeed.ops.transformer.inference.op_binding.mlp_gemm import MLPGemmOp
    from deepspeed.utils.types import ActivationFuncType

    for module in model.modules():
        if isinstance(module, MLPGemmOp) and module.config.mlp_act_func_type == ActivationFuncType.ReLU:
            module.mlp_gemm_func = _mlp_gemm_relu


def _mlp_gemm_relu(
    attention: torch.Tensor,
    residual: torch.Tensor,
    attention_bias: torch.Tensor,
    weight_in: torch.Tensor,
    weight_out: torch.Tensor,
    bias_in: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    eps: float,
    *flags: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Layer norm after attention, then both MLP products with a ReLU between them.

    `attention` and `residual` are (batch, tokens, hidden). The last flag says whether the weights
    are transposed; the other flags are of quantisation and do not matter in floating point.
    """
    transposed = flags[-1]
    hidden = functional.layer_norm(attention + residual + attention_bias, (attention.shape[-1],), gamma, beta, eps)
    inner = functional.relu(hidden @ (weight_in.t() if transposed else weight_in) + bias_in)
    return inner @ (weight_out.t() if transposed else weight_out), hidden
