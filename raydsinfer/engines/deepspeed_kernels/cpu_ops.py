"""DeepSpeed's fused layers on a CPU: each kernel's own PyTorch version, and those that have to be right.

What is repaired here are mistakes of the PyTorch versions alone. What the CUDA kernels compute otherwise than
transformers is not repaired here but in the adapters, which run on both.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from raydsinfer.engines.deepspeed_kernels.cpu_alibi import alibi_softmax
from raydsinfer.engines.deepspeed_kernels.cpu_mlp import mlp_gemm
from raydsinfer.engines.deepspeed_kernels.cpu_rotary import rotated_context


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
    from deepspeed.ops.transformer.inference.op_binding.softmax import SoftmaxOp
    from deepspeed.ops.transformer.inference.op_binding.softmax_context import SoftmaxContextOp
    from deepspeed.ops.transformer.inference.op_binding.workspace import InferenceContext
    from deepspeed.utils.types import NormType
    from transformers.activations import ACT2FN

    act = ACT2FN[activation]
    for module in model.modules():
        if isinstance(module, MLPGemmOp) and module.config.norm_type == NormType.LayerNorm:
            module.mlp_gemm_func = partial(mlp_gemm, act)
        if isinstance(module, SoftmaxContextOp) and module.config.rotary_dim > 0:
            count = InferenceContext.Instance().current_tokens
            module.softmax_context_func = partial(rotated_context, module.softmax_context_fallback, count)
        if isinstance(module, SoftmaxOp):  # only BLOOM's attention has it
            module.softmax_func = alibi_softmax
