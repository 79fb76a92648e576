"""Attention by torch's `scaled_dot_product_attention`: runs on every device, gathers pages into padded rows."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.nn.functional import scaled_dot_product_attention

from raydsinfer.engines.continuous.kv_cache import KVCache
from raydsinfer.engines.continuous.page_tables import PageTables
from raydsinfer.engines.continuous.step_inputs import Prompts, Rows


class SdpaDecode:
    """Each row's pages, gathered to the length of the longest row."""

    name: ClassVar[str] = "sdpa"
    supports_windows: ClassVar[bool] = True

    def __init__(self, cache: KVCache, tables: PageTables) -> None:
        self._cache, self._tables = cache, tables
        self._places = self._visible = torch.empty(0)

    def begin(self, rows: Rows, longest: int) -> None:
        """See `DecodeAttention.begin`."""

    def attend(
        self, layer: int, query: torch.Tensor, *, rows: Rows, longest: int, scale: float, window: int | None
    ) -> torch.Tensor:
        """See `DecodeAttention.attend`."""
        if layer == 0:
            self._places, self._visible = self._gather(rows, longest)
        visible = self._visible
        if window is not None:
            seen = torch.arange(visible.shape[1], device=visible.device)
            visible = visible & (seen > rows.positions[:, None] - window)
        # (rows, tokens, heads, size) to heads first
        keys, values = (
            stored[self._places].transpose(1, 2) for stored in (self._cache.keys[layer], self._cache.values[layer])
        )
        attended = scaled_dot_product_attention(
            query.unsqueeze(2),
            keys,
            values,
            attn_mask=visible[:, None, None],
            scale=scale,
            enable_gqa=query.shape[1] != keys.shape[1],
        )
        return attended.squeeze(2)

    def _gather(self, rows: Rows, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Places in the cache (rows, tokens) and which of them a row sees."""
        page_size = self._cache.page_size
        pages = self._tables.device[rows.slots, : -(-longest // page_size)].long()
        within = torch.arange(page_size, device=pages.device)
        places = (pages[:, :, None] * page_size + within).flatten(1)
        return places, torch.arange(places.shape[1], device=pages.device) < rows.lengths[:, None]


class SdpaPrefill:
    """Chunk by chunk."""

    name: ClassVar[str] = "sdpa"
    supports_windows: ClassVar[bool] = True

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache

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
        if prompts.seen is not None:
            key, value = (t[prompts.seen] for t in (self._cache.keys[layer], self._cache.values[layer]))
        out, at, seen_at = [], 0, 0
        for chunk in prompts.chunks:
            total = chunk.start + chunk.length if prompts.seen is not None else chunk.length
            queries = query[at : at + chunk.length]
            seen = slice(seen_at, seen_at + total)
            out.append(_causal(queries, key[seen], value[seen], scale, window))
            at, seen_at = at + chunk.length, seen_at + total
        return torch.cat(out)


def _causal(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
) -> torch.Tensor:
    """Attention of the last tokens of a sequence to all of it."""
    count, total = len(query), len(key)
    mask = None
    if count != total or (window is not None and window < total):
        at = torch.arange(total - count, total, device=query.device)[:, None]
        seen = torch.arange(total, device=query.device)[None]
        mask = seen <= at
        if window is not None:
            mask &= seen > at - window
    heads_first = [tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value)]
    attended = scaled_dot_product_attention(
        heads_first[0],
        heads_first[1],
        heads_first[2],
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return attended[0].transpose(0, 1)
