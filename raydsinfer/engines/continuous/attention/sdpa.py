"""Attention by torch's `scaled_dot_product_attention`: runs on every device, gathers pages into padded rows."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.nn.functional import scaled_dot_product_attention

from raydsinfer.engines.continuous.bloom import linear_bias
from raydsinfer.engines.continuous.kv_cache import KVCache
from raydsinfer.engines.continuous.page_tables import PageTables
from raydsinfer.engines.continuous.step_inputs import Prompts, Rows

_BLOCK = 256  # queries
_MOST_BIASES = 2**24  # of a block
_MOST_KEPT = 2**27  # elements of masks that a layer leaves to the next


class SdpaDecode:
    """Each row's pages, gathered to the length of the longest row."""

    name: ClassVar[str] = "sdpa"

    def __init__(self, cache: KVCache, tables: PageTables, slopes: torch.Tensor | None = None) -> None:
        self._cache, self._tables, self._slopes = cache, tables, slopes
        self._places = self._mask = torch.empty(0)

    def begin(self, rows: Rows, longest: int) -> None:
        """See `DecodeAttention.begin`."""

    def attend(
        self, layer: int, query: torch.Tensor, *, rows: Rows, longest: int, scale: float, window: int | None
    ) -> torch.Tensor:
        """See `DecodeAttention.attend`."""
        if layer == 0:
            self._places, visible = self._gather(rows, longest)
            self._mask = visible[:, None, None]
            if self._slopes is not None:
                self._mask = _biased(self._mask, self._slopes, rows).to(query.dtype)
        mask = self._mask
        if window is not None:
            seen = torch.arange(mask.shape[-1], device=mask.device)
            inside = (seen > rows.positions[:, None] - window)[:, None, None]
            mask = mask & inside if self._slopes is None else mask.masked_fill(~inside, -torch.inf)
        # (rows, tokens, heads, size) to heads first
        keys, values = (
            stored[self._places].transpose(1, 2) for stored in (self._cache.keys[layer], self._cache.values[layer])
        )
        attended = scaled_dot_product_attention(
            query.unsqueeze(2),
            keys,
            values,
            attn_mask=mask,
            scale=scale,
            enable_gqa=query.shape[1] != keys.shape[1],
        )
        if layer == len(self._cache.layers) - 1:  # captured steps of other sizes can have the memory
            self._places = self._mask = torch.empty(0)
        return attended.squeeze(2)

    def _gather(self, rows: Rows, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Places in the cache (rows, tokens) and which of them a row sees."""
        page_size = self._cache.page_size
        pages = self._tables.device[rows.slots, : -(-longest // page_size)].long()
        within = torch.arange(page_size, device=pages.device)
        places = (pages[:, :, None] * page_size + within).flatten(1)
        return places, torch.arange(places.shape[1], device=pages.device) < rows.lengths[:, None]


class SdpaPrefill:
    """Chunk by chunk; with linear biases in blocks of queries, since each has a bias for each key and head.

    Args:
        cache: Keys and values.
        slopes: See `bloom.slopes_of`.
    """

    name: ClassVar[str] = "sdpa"

    def __init__(self, cache: KVCache, slopes: torch.Tensor | None = None) -> None:
        self._cache, self._slopes = cache, slopes
        self._masks: dict[tuple[int, int, int | None], torch.Tensor | None] = {}

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
            start = chunk.start if prompts.seen is not None else 0
            size = self._block(start + chunk.length) if self._slopes is not None else chunk.length
            for first in range(0, chunk.length, size):
                end = min(first + size, chunk.length)
                seen = slice(seen_at, seen_at + start + end)
                queries = query[at + first : at + end]
                mask = self._mask(queries, start + end, window)
                out.append(_causal(queries, key[seen], value[seen], scale, mask))
            at, seen_at = at + chunk.length, seen_at + start + chunk.length
        if layer == len(self._cache.layers) - 1:
            self._masks.clear()
        return torch.cat(out)

    def _block(self, total: int) -> int:
        """Queries whose biases towards so many tokens are made at once."""
        assert self._slopes is not None  # noqa: S101
        return max(1, min(_BLOCK, _MOST_BIASES // (len(self._slopes) * total)))

    def _mask(self, queries: torch.Tensor, total: int, window: int | None) -> torch.Tensor | None:
        """One for the last queries of so many tokens, from an earlier layer if there was room to keep it."""
        shape = (len(queries), total, window)
        if shape in self._masks:
            return self._masks[shape]
        mask = _causal_mask(queries, total, window, self._slopes)
        kept = sum(other.numel() for other in self._masks.values() if other is not None)
        if mask is None or kept + mask.numel() <= _MOST_KEPT:
            self._masks[shape] = mask
        return mask


def _biased(visible: torch.Tensor, slopes: torch.Tensor, rows: Rows) -> torch.Tensor:
    """What is added to scores of decode rows, (rows, heads, 1, tokens)."""
    seen = torch.arange(visible.shape[-1], device=visible.device)
    return linear_bias(slopes, seen, rows.positions[:, None, None]).masked_fill(~visible, -torch.inf)


def _causal_mask(
    queries: torch.Tensor, total: int, window: int | None, slopes: torch.Tensor | None
) -> torch.Tensor | None:
    """For the last of `total` tokens; None if causal attention to all of it is all that is asked for."""
    count, device = len(queries), queries.device
    if slopes is None and count == total and (window is None or window >= total):
        return None
    at = torch.arange(total - count, total, device=device)[:, None]
    seen = torch.arange(total, device=device)
    mask = seen <= at
    if window is not None:
        mask &= seen > at - window
    if slopes is None:
        return mask
    return linear_bias(slopes, seen, at).to(queries.dtype).masked_fill_(~mask, -torch.inf)[None]


def _causal(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, mask: torch.Tensor | None
) -> torch.Tensor:
    """Attention of the last tokens of a sequence to all of it; without a mask, of each to all that are before."""
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
