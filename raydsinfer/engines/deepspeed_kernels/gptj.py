"""GPT-J: rotary positions on neighbouring pairs, MLP beside the attention, one norm for both."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from raydsinfer.engines.deepspeed_kernels.adapter import Adapter
from raydsinfer.engines.deepspeed_kernels.injected_layer import CountingCache, InjectedLayer


class _Layer(InjectedLayer):
    def forward(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        layer_past: CountingCache | None = None,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        return self.run(hidden_states, attention_mask, layer_past), None


class GPTJ(Adapter):
    """DeepSpeed's policy reads `rotary_dim` of the configuration; its layers rotate pairs by default."""

    layer: ClassVar[type[InjectedLayer]] = _Layer
