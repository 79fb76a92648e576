"""The op of DeepSpeed's attention on a CPU, with rotary positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def rotated_context(
    attend: Callable[..., Any],
    current_tokens: Callable[[], int],
    query_key_value: torch.Tensor,
    mask: torch.Tensor,
    rotary_dim: int,
    rotate_half: bool,
    rotate_every_two: bool,
    heads: int,
    num_kv: int,
    *arguments: Any,
) -> Any:
    """Attention over DeepSpeed's KV cache, with rotary positions.

    DeepSpeed's PyTorch version knows no positions on neighbouring pairs, and asks transformers for others in a
    way that is gone. Positions are those of the CUDA kernel: counted from the first column, padding included. Scores
    depend on the distance of two positions only, so that padding on the left changes nothing.

    Args:
        attend: The same without rotary positions.
        current_tokens: Columns that the cache holds with this one, when it decodes.
        query_key_value: (batch, tokens, (heads + 2 * key-value heads) * head size).
        mask: Additive.
        rotary_dim: How many elements of a head are rotated.
        rotate_half: Whether the first half of them goes with the second.
        rotate_every_two: Whether neighbours go together.
        heads: Of this rank.
        num_kv: Key-value heads of this rank; 0 or less if there are as many as heads.
        arguments: The others; the fourth from the end is the rotary base.
    """
    theta, num_tokens = arguments[-4], query_key_value.shape[1]
    first = 0 if num_tokens > 1 else current_tokens() - 1
    angles = _angles(torch.arange(first, first + num_tokens, device=query_key_value.device), rotary_dim, theta)
    key_heads = num_kv if num_kv > 0 else heads
    by_head = query_key_value.reshape(*query_key_value.shape[:-1], heads + 2 * key_heads, -1)
    rotated, same = by_head[..., : heads + key_heads, :], by_head[..., heads + key_heads :, :]
    rotated = torch.cat([_rotated(rotated[..., :rotary_dim], angles, rotate_half), rotated[..., rotary_dim:]], dim=-1)
    whole = torch.cat([rotated, same], dim=-2).flatten(-2)
    return attend(whole, mask, -1, rotate_half, rotate_every_two, heads, num_kv, *arguments)


def _angles(positions: torch.Tensor, rotary_dim: int, theta: float) -> torch.Tensor:
    """(tokens, 1, rotary_dim / 2): for each pair of elements."""
    frequencies = 1.0 / theta ** (torch.arange(0, rotary_dim, 2, device=positions.device) / rotary_dim)
    return (positions[:, None].float() * frequencies)[:, None]


def _rotated(elements: torch.Tensor, angles: torch.Tensor, rotate_half: bool) -> torch.Tensor:
    """`elements`, (batch, tokens, heads, rotary_dim), turned pair by pair."""
    pairs = elements.reshape(*elements.shape[:-1], *((2, -1) if rotate_half else (-1, 2)))
    dim = -2 if rotate_half else -1
    first, second = pairs.unbind(dim)
    cos, sin = angles.cos().to(elements.dtype), angles.sin().to(elements.dtype)
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim).flatten(-2)
