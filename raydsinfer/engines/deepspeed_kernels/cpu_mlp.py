"""The op of DeepSpeed's MLP on a CPU, with any activation, after the attention or beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

Activation = Callable[[torch.Tensor], torch.Tensor]


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
