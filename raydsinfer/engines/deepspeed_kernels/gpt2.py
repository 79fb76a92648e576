"""GPT-2: one matrix for query, key and value, stored the other way round; two scales of the scores."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from deepspeed.model_implementations.transformers.ds_transformer import DeepSpeedTransformerInference

from raydsinfer.engines.deepspeed_kernels.adapter import Adapter
from raydsinfer.engines.deepspeed_kernels.injected_layer import CountingCache, InjectedLayer


class _Layer(InjectedLayer):
    def forward(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        past_key_values: CountingCache | None = None,
        attention_mask: torch.Tensor | None = None,
        *_: Any,
        **__: Any,
    ) -> torch.Tensor:
        return self.run(hidden_states, attention_mask, past_key_values)


class GPT2(Adapter):
    """Pre-norm layers, learned positions."""

    layer: ClassVar[type[InjectedLayer]] = _Layer
    takes_meta: ClassVar[bool] = False  # DeepSpeed's container for GPT-2 cannot be built on the meta device

    def after(self, layer: DeepSpeedTransformerInference, index: int, model_config: Any) -> None:
        """Scale the scores as the model was trained: DeepSpeed knows 1 / sqrt(head size) only."""
        scale = 1.0
        if model_config.scale_attn_weights:
            scale /= math.sqrt(model_config.hidden_size // model_config.num_attention_heads)
        if model_config.scale_attn_by_inverse_layer_idx:
            scale /= index + 1
        layer.attention.norm_factor = 1 / math.sqrt(scale)  # divides queries and keys alike
