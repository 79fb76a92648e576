"""Attention on a CPU: what DeepSpeed's PyTorch versions of its kernels get wrong about positions.

Each function computes what the CUDA kernel of the same op computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional


def alibi_softmax(
    scores: torch.Tensor,
    mask: torch.Tensor,
    alibi: torch.Tensor,
    triangular: bool,
    recompute: bool,
    local_attention: bool,
    window_size: int,
    async_op: bool,
    layer_scale: float,
    head_offset: int,
    mp_size: int,
) -> torch.Tensor:
    """Softmax over scores with distances added.

    Args:
        scores: (batch, heads of this rank, tokens, keys).
        mask: Added; (batch, 1, tokens, keys).
        alibi: Added; (batch x heads of all ranks, 1, keys).
        triangular: Not used, as all that follow but the last three: the mask says what is seen.
        recompute: Not used.
        local_attention: Not used.
        window_size: Not used.
        async_op: Not used.
        layer_scale: Scores are multiplied by it.
        head_offset: First head of this rank.
        mp_size: Number of ranks.
    """
    batch, heads, _, keys = scores.shape
    distances = alibi.view(batch, heads * mp_size, 1, keys)[:, head_offset : head_offset + heads]
    summed = scores * layer_scale + distances + mask
    return functional.softmax(summed, dim=-1, dtype=torch.float32).to(scores.dtype)


def rotated_softmax_context(attend: Callable[..., Any]) -> Callable[..., Any]:
    """DeepSpeed's attention without positions, as one that turns queries and keys by their positions first.

    Like the kernel it counts positions from the left edge of the batch. Rows that are padded on the left have
    all of their positions shifted by the same number, which attention, being relative, does not see.

    Args:
        attend: The op's PyTorch version.
    """
    from deepspeed.ops.transformer.inference.op_binding.workspace import InferenceContext

    def rotate_and_attend(
        query_key_value: torch.Tensor,
        attn_mask: torch.Tensor,
        rotary_dim: int,
        rotate_half: bool,
        rotate_every_two: bool,
        heads: int,
        *others: Any,
    ) -> Any:
        *_, rope_theta, is_prompt, _token_index, _position_ids = others
        first = 0 if is_prompt else InferenceContext.Instance().current_tokens() - 1
        batch, tokens, _ = query_key_value.shape
        by_head = query_key_value.view(batch, tokens, 3, heads, -1)
        turned = rotated(by_head[:, :, :2], rotary_dim, rope_theta, first)
        joined = torch.cat((turned, by_head[:, :, 2:]), dim=2).view_as(query_key_value)
        return attend(joined, attn_mask, 0, rotate_half, rotate_every_two, heads, *others)

    return rotate_and_attend


def rotated(vectors: torch.Tensor, rotary_dim: int, theta: float, first: int) -> torch.Tensor:
    """Vectors turned by their positions, each element together with the one half of `rotary_dim` further on.

    Args:
        vectors: (batch, tokens, kinds, heads, head size).
        rotary_dim: So many elements are turned, the others stay.
        theta: Base of the frequencies.
        first: Position of the first token.
    """
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
    positions = torch.arange(first, first + vectors.shape[1], dtype=torch.float32)
    angles = torch.outer(positions, 1.0 / theta**exponents)[:, None, None, :]
    turned, kept = vectors[..., :rotary_dim].float(), vectors[..., rotary_dim:]
    low, high = turned.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat(((low * cos - high * sin), (high * cos + low * sin), kept.float()), dim=-1).to(vectors.dtype)
