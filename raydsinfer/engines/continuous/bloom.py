"""BLOOM's attention, led to the paged KV cache though it asks no interface for that, and its linear biases (ALiBi).

A score gets the slope of its head times the position of the key. Softmax does not see what all scores of a query share:
the distance to the query serves as well, and stays exact in 16 bits where it matters, at keys that are near.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Attend = Callable[[Any, torch.Tensor, torch.Tensor, torch.Tensor, float, int | None], torch.Tensor]
"""From a module, and its queries, keys and values (1, heads, tokens, size): (tokens, heads, size)."""


def is_bloom_attention(module: Any) -> bool:
    """Whether `lead` is for this module."""
    return type(module).__name__ == "BloomAttention"


def lead(module: Any, attend: Attend) -> None:
    """Let a layer attend elsewhere, while there is such an attention.

    Args:
        module: A `BloomAttention` with `paged_routes`, perhaps with part of the heads.
        attend: See `Attend`.
    """
    own = module.forward

    def forward(hidden_states: torch.Tensor, residual: torch.Tensor, *args: Any, **others: Any) -> Any:
        if module.paged_routes.attention is None:
            return own(hidden_states, residual, *args, **others)
        query, key, value = module._reshape(module.query_key_value(hidden_states))
        attended = attend(module, query, key, value, module.inv_norm_factor, None)
        return module.dense(attended.flatten(1).unsqueeze(0)) + residual, None

    module.forward = forward


def slopes_of(model: Any) -> torch.Tensor | None:
    """The slope of each head of this rank, float32 (heads,); None for a model without.

    The model's own function is asked: where heads are shared out, DeepSpeed has cut that.

    Args:
        model: A transformers model.
    """
    base = model.base_model
    if not hasattr(base, "build_alibi_tensor"):
        return None
    ones = torch.ones(1, 2, dtype=torch.int64, device=model.get_input_embeddings().weight.device)
    biases: torch.Tensor = base.build_alibi_tensor(ones, base.num_heads, dtype=torch.float32)
    return biases[:, 0, 1].clone()  # in one piece: FlexAttention would copy it in each layer, and on CPUs refuses it


def spare_biases(model: Any, is_led: Callable[[], bool]) -> None:
    """Let a model not compute its biases for an attention that has its own: a captured step cannot.

    Args:
        model: A transformers model.
        is_led: Whether attention is led elsewhere at the moment.
    """
    base = model.base_model
    own = getattr(base, "build_alibi_tensor", None)
    if own is None:
        return

    def build(attention_mask: torch.Tensor, *args: Any, **others: Any) -> torch.Tensor:
        biases: torch.Tensor = attention_mask if is_led() else own(attention_mask, *args, **others)
        return biases

    base.build_alibi_tensor = build


def linear_bias(slopes: torch.Tensor, seen: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """What is added to scores.

    Args:
        slopes: (heads,).
        seen: Positions of keys, (keys,).
        at: Positions of queries, (..., queries, 1).

    Returns:
        float32 (..., heads, queries, keys).
    """
    return slopes[:, None, None] * (seen - at).unsqueeze(-3)
