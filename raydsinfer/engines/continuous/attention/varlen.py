"""Prefill attention by torch's own FlashAttention over sequences of different lengths: one call for all chunks."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch

from raydsinfer.engines.continuous.kv_cache import KVCache
from raydsinfer.engines.continuous.step_inputs import Prompts


def varlen_function() -> Any:
    """torch's function, or None where this torch has none (before 2.10)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


class VarlenPrefill:
    """All chunks at once. Chunks that see more than themselves read what they see from the cache.

    Args:
        cache: Keys and values.
    """

    name: ClassVar[str] = "varlen"

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        self._function = varlen_function()
        # torch 2.10 says `is_causal`, later ones a window that ends at the token itself, and ask about groups of heads.
        parameters = inspect.signature(self._function).parameters
        self._causal: dict[str, Any] = {"is_causal": True} if "is_causal" in parameters else {"window_size": (-1, 0)}
        self._asks_groups = "enable_gqa" in parameters

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        prompts: Prompts,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """See `PrefillAttention.attend`."""
        chunks, options = prompts.chunks, dict(self._causal)
        longest = longest_seen = max([chunk.length for chunk in chunks])
        if prompts.seen is not None:
            key, value = (t[prompts.seen] for t in (self._cache.keys[layer], self._cache.values[layer]))
            longest_seen = max([chunk.start + chunk.length for chunk in chunks])
        if self._asks_groups:
            options["enable_gqa"] = query.shape[1] != key.shape[1]
        attended: torch.Tensor = self._function(
            query.contiguous(),
            key.contiguous(),
            value.contiguous(),
            prompts.starts,
            prompts.seen_starts,
            longest,
            longest_seen,
            scale=scale,
            **options,
        )
        return attended
