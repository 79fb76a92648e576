"""Llama: RMS norms, a gated MLP, rotary positions, and no biases."""

from __future__ import annotations

from typing import Any

import torch
from deepspeed.model_implementations.transformers.ds_transformer import DeepSpeedTransformerInference
from torch import nn

from raydsinfer.engines.deepspeed_kernels.adapter import Adapter


class Llama(Adapter):
    """With one key-value head a query head, or several query heads that share one."""

    def before(self, layer: nn.Module, model_config: Any) -> None:
        """Give each query head a key-value head: DeepSpeed's policy takes as many of them for granted."""
        attention: Any = layer.self_attn
        repeats = model_config.num_attention_heads // model_config.num_key_value_heads
        if repeats > 1:
            for name in ("k_proj", "v_proj"):
                weight = getattr(attention, name).weight
                setattr(attention, name, RepeatedHeads(weight, model_config.num_key_value_heads, repeats))

    def after(self, layer: DeepSpeedTransformerInference, index: int, model_config: Any) -> None:
        """See `Adapter.after`."""
        layer.mlp.residual_add_func = SummedResidual(layer.config.mp_size)


class RepeatedHeads(nn.Module):
    """A projection to key-value heads that are shared, as one that has a head for each query head.

    The kernels keep the keys and values of each query head anyway, so this costs memory for weights only.

    Args:
        weight: (heads x head size, hidden).
        heads: Key-value heads.
        repeats: Query heads that share one.
    """

    def __init__(self, weight: nn.Parameter, heads: int, repeats: int) -> None:
        super().__init__()
        self.heads, self.repeats = heads, repeats
        self._parameters["weight"] = weight

    @property
    def weight(self) -> torch.Tensor:
        """What DeepSpeed's policy reads; the parameter of this name stays as it is stored."""
        stored: Any = self._parameters["weight"]
        by_head = stored.detach().view(self.heads, -1, stored.shape[1])
        repeated: torch.Tensor = by_head.repeat_interleave(self.repeats, 0).reshape(-1, stored.shape[1])
        return repeated


class SummedResidual(nn.Module):
    """Adds what went round the MLP to its output.

    The kernel for RMS norm writes the sum of the layer's input and the attention's output over the layer's
    input. DeepSpeed's own addition then adds the attention's output once more: right for its PyTorch version
    only, which writes the sum elsewhere. Both return the sum too, which is what this takes.

    Args:
        mp_size: Ranks over which the result is summed.
    """

    def __init__(self, mp_size: int) -> None:
        super().__init__()
        self.mp_size = mp_size

    def forward(self, hidden_state: torch.Tensor, residual_add: torch.Tensor, **_: Any) -> torch.Tensor:
        """The layer's output on this rank, before it is summed over the ranks.

        Args:
            hidden_state: The MLP's output, (batch, tokens, hidden).
            residual_add: The sum of the layer's input and the attention's output, of the same shape.
        """
        return torch.add(hidden_state, residual_add, alpha=1 / self.mp_size)
