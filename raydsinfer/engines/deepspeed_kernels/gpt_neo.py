"""GPT-Neo: every other layer sees a window of tokens only; scores are not scaled."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from deepspeed.model_implementations.transformers.ds_transformer import DeepSpeedTransformerInference

from raydsinfer.engines.deepspeed_kernels.adapter import Adapter
from raydsinfer.engines.deepspeed_kernels.injected_layer import CountingCache, InjectedLayer, additive


class _Layer(InjectedLayer):
    def forward(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        layer_past: CountingCache | None = None,
        attention_mask: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        mask = additive(attention_mask, hidden_states.dtype)
        if mask is not None and self.layer.config.seen_window:
            mask = windowed(mask, self.layer.config.seen_window)
        return self.run(hidden_states, mask, layer_past), None


def windowed(mask: torch.Tensor, window: int) -> torch.Tensor:
    """An additive mask that also hides keys before a window.

    Args:
        mask: (batch, 1, tokens, keys); the last query stands at the last key.
        window: How many keys a query sees, itself included.
    """
    num_queries, num_keys = mask.shape[-2:]
    before = torch.ones(num_queries, num_keys, dtype=torch.bool, device=mask.device)
    return mask.masked_fill(before.tril(num_keys - num_queries - window), torch.finfo(mask.dtype).min)


class GPTNeo(Adapter):
    """Pre-norm layers, learned positions."""

    layer: ClassVar[type[InjectedLayer]] = _Layer

    def after(self, layer: DeepSpeedTransformerInference, index: int, model_config: Any) -> None:
        """Let the mask hide what is outside of the window.

        The CUDA kernel's own window is one key too small when it decodes, and beyond 256 keys it leaves out others
        within the window; the PyTorch version has none.
        """
        local = model_config.attention_layers[index] == "local"
        layer.config.seen_window = model_config.window_size if local else 0
        layer.config.local_attention = False
