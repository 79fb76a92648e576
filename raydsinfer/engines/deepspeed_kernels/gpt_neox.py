"""GPT-NeoX, which Pythia is: rotary positions on halves, query, key and value head by head in one matrix."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from deepspeed.model_implementations.transformers.ds_transformer import DeepSpeedTransformerInference
from torch import nn

from raydsinfer.engines.deepspeed_kernels.adapter import Adapter
from raydsinfer.engines.deepspeed_kernels.injected_layer import CountingCache, InjectedLayer


class _Layer(InjectedLayer):
    def forward(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        layer_past: CountingCache | None = None,
        **_: Any,
    ) -> torch.Tensor:
        return self.run(hidden_states, attention_mask, layer_past)


class GPTNeoX(Adapter):
    """DeepSpeed's policy was written for attention modules that knew their sizes."""

    layer: ClassVar[type[InjectedLayer]] = _Layer

    def before(self, layer: nn.Module, model_config: Any) -> None:
        """Write the sizes onto the attention module."""
        attention: Any = layer.attention
        attention.hidden_size, attention.num_attention_heads = (
            model_config.hidden_size,
            model_config.num_attention_heads,
        )

    def after(self, layer: DeepSpeedTransformerInference, index: int, model_config: Any) -> None:
        """Set the rotary base, and whether the MLP reads the attention's output."""
        layer.config.rope_theta = model_config.rope_parameters["rope_theta"]
        layer.config.mlp_after_attn = not model_config.use_parallel_residual
