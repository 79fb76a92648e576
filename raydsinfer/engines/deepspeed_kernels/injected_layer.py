"""Between DeepSpeed's injected layers and transformers 5.

transformers 5 passes a tensor from layer to layer and keeps the KV cache itself; the injected
layers return tuples and keep their own. The layer here translates, the cache here only counts.
"""

from __future__ import annotations

from typing import Any

import torch
from deepspeed.model_implementations.transformers.ds_transformer import DeepSpeedTransformerInference
from torch import nn
from transformers import DynamicCache


class CountingCache(DynamicCache):
    """Holds no keys or values: tells transformers how many tokens DeepSpeed's own cache holds."""

    def __init__(self) -> None:
        super().__init__()
        self.num_tokens = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens seen so far."""
        return self.num_tokens

    def get_mask_sizes(self, query_length: Any, layer_idx: int = 0) -> tuple[int, int]:
        """Length and offset of the keys that a mask has to cover."""
        length = query_length.shape[0] if torch.is_tensor(query_length) else query_length
        return self.num_tokens + length, 0


class InjectedLayer(nn.Module):
    """Gives one of DeepSpeed's fused layers the interface of a transformers decoder layer.

    A family whose layer is called in another way has a subclass with that `forward`.

    Args:
        layer: DeepSpeed's layer.
        last: Whether it is the model's last, which advances the count of tokens.
    """

    def __init__(self, layer: DeepSpeedTransformerInference, last: bool) -> None:
        super().__init__()
        self.layer, self.last = layer, last

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: CountingCache | None = None,
        **_: Any,
    ) -> Any:
        """One layer. `hidden_states` is (batch, tokens, hidden), `attention_mask` (batch, 1, tokens, keys)."""
        return self.run(hidden_states, attention_mask, past_key_values)

    def run(
        self, hidden_states: torch.Tensor, mask: torch.Tensor | None, cache: CountingCache | None, **arguments: Any
    ) -> torch.Tensor:
        """Call DeepSpeed's layer, and count its tokens if it is the last.

        Args:
            hidden_states: (batch, tokens, hidden).
            mask: Boolean or additive, (batch, 1, tokens, keys).
            cache: Counts the tokens.
            arguments: More for DeepSpeed's layer.
        """
        out = self.layer(hidden_states, attention_mask=additive(mask, hidden_states.dtype), **arguments)
        if self.last and cache is not None:
            cache.num_tokens += hidden_states.shape[1]
        hidden: torch.Tensor = out[0] if isinstance(out, tuple) else out
        return hidden


def additive(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """The kernels add the mask to the scores and read it as one block of memory."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
    return mask.contiguous()


def injected_layers(model: nn.Module) -> list[tuple[str, DeepSpeedTransformerInference]]:
    """Name and module of each layer that DeepSpeed replaced, first to last."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, DeepSpeedTransformerInference)]
