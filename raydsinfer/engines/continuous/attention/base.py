"""What every way to attend has."""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch

from raydsinfer.engines.continuous.kv_cache import KVCache
from raydsinfer.engines.continuous.page_tables import PageTables
from raydsinfer.engines.continuous.step_inputs import Prompts, Rows


class DecodeAttention(Protocol):
    """One query token a row, over the pages of its slot. One object for each captured batch size.

    Args:
        cache: Keys and values.
        tables: Pages of each slot.
    """

    name: ClassVar[str]

    def __init__(self, cache: KVCache, tables: PageTables) -> None: ...

    def begin(self, rows: Rows, longest: int) -> None:
        """Get ready for a step.

        Args:
            rows: The rows, padding included.
            longest: Tokens that no row sees more of; the same whenever a captured step is replayed.
        """
        ...

    def attend(
        self, layer: int, query: torch.Tensor, *, rows: Rows, longest: int, scale: float, window: int | None
    ) -> torch.Tensor:
        """From (rows, heads, size) to (rows, heads, value size).

        `window`: how many tokens back a layer sees. Only `sdpa` is given one: see `choice`.
        """
        ...


class PrefillAttention(Protocol):
    """Causal attention of prefill chunks, each over what its sequence has so far."""

    name: ClassVar[str]

    def __init__(self, cache: KVCache) -> None: ...

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
        """From (tokens, heads, size) of all chunks to (tokens, heads, value size)."""
        ...
