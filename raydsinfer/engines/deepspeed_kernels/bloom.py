"""BLOOM: distances instead of positions (alibi), and a KV cache that DeepSpeed keeps outside of its workspace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from deepspeed.module_inject import containers
from deepspeed.module_inject.containers import DS_BloomContainer

from raydsinfer.engines.deepspeed_kernels.adapter import Adapter
from raydsinfer.engines.deepspeed_kernels.injected_layer import CountingCache, InjectedLayer


class BloomContainer(DS_BloomContainer):  # type: ignore[misc]
    """DeepSpeed's own, without its refusal of transformers above 4.43.4.

    It refuses them for what `BloomLayer` translates: the layer's outputs and its cache, and the mask, which
    transformers adds to the scores, while DeepSpeed multiplies it by a large negative number.
    """

    def __init__(self, **settings: Any) -> None:
        super(DS_BloomContainer, self).__init__(**settings)  # past the one that refuses
        self.bigscience_bloom = True
        self.triangular_masking = False


class BloomLayer(InjectedLayer):
    """A fused layer with the interface of a `BloomBlock`."""

    def forward(  # type: ignore[override]  # called as a BloomBlock is
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        layer_past: CountingCache | None = None,
        alibi: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """One layer.

        Args:
            hidden_states: (batch, tokens, hidden).
            attention_mask: Boolean or additive, (batch, 1, tokens, keys); transformers always makes one.
            layer_past: Counts the tokens.
            alibi: (batch x heads of all ranks, 1, keys). The kernel finds those of its rank by itself.
        """
        if layer_past is not None and layer_past.num_tokens == 0:
            # DeepSpeed forgets the last batch when a prompt has more than one token, and not before.
            self.layer.layer_past = None
        mask = None if attention_mask is None else blocked(attention_mask).to(hidden_states.dtype)
        alibi = None if alibi is None else alibi.contiguous()
        return self.run(hidden_states, mask, layer_past, alibi=alibi), None


def blocked(mask: torch.Tensor) -> torch.Tensor:
    """Which keys a boolean or additive mask keeps from being seen: DeepSpeed's BLOOM takes that as ones."""
    return ~mask if mask.dtype == torch.bool else mask < 0


class Bloom(Adapter):
    """Pre-norm layers, GELU, alibi."""

    layer = BloomLayer

    @contextmanager
    def replacing(self) -> Iterator[None]:
        """See `Adapter.replacing`: DeepSpeed looks its container up by this name for each layer."""
        containers.DS_BloomContainer = BloomContainer
        try:
            yield
        finally:
            containers.DS_BloomContainer = DS_BloomContainer

    def activation(self, model_config: Any) -> str:
        """BLOOM's configuration names none; its own GELU is the tanh approximation, as is the kernels'."""
        return "gelu_pytorch_tanh"
