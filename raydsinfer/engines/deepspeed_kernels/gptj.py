"""GPT-J: rotary positions on neighbouring pairs, MLP beside the attention, one norm for both."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from deepspeed.accelerator import get_accelerator
from torch import nn

from raydsinfer.engines.deepspeed_kernels.adapter import Adapter
from raydsinfer.engines.deepspeed_kernels.injected_layer import CountingCache, InjectedLayer
from raydsinfer.errors import UnsupportedError


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

    def before(self, layer: nn.Module, model_config: Any) -> None:
        """Refuse float32 on a GPU: that kernel rotates the second of each pair by the first one's new value.

        Raises:
            UnsupportedError: The weights are float32, and the CUDA kernel would rotate them.
        """
        if get_accelerator().device_name() == "cuda" and next(layer.parameters()).dtype == torch.float32:
            raise UnsupportedError(
                what="kernel_inject=True for gptj in float32 on a GPU",
                why="DeepSpeed's float32 kernel rotates positions wrongly",
                instead="Use dtype='float16' or 'bfloat16', or kernel_inject=False.",
            )
