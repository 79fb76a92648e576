"""Decode attention by torch's FlexAttention, compiled: a page is a block of a sparse attention."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from raydsinfer.engines.continuous.kv_cache import KVCache
from raydsinfer.engines.continuous.page_tables import PageTables
from raydsinfer.engines.continuous.step_inputs import Rows


class FlexDecode:
    """Rows over their pages. Pages that are full need no mask; the last one of each row does.

    Args:
        cache: Keys and values.
        tables: Pages of each slot.
        sizes: Batch sizes to compile for, ascending; rows are padded to one of them.
        slopes: See `bloom.slopes_of`.
        compiled: Whether to compile it; for tests.
    """

    name: ClassVar[str] = "flex"

    def __init__(
        self,
        cache: KVCache,
        tables: PageTables,
        sizes: tuple[int, ...],
        slopes: torch.Tensor | None = None,
        *,
        compiled: bool = True,
    ) -> None:
        from torch.nn.attention.flex_attention import flex_attention

        self._cache, self._tables, self._sizes, self._slopes = cache, tables, sizes, slopes
        self._function: Any = torch.compile(flex_attention, dynamic=False) if compiled else flex_attention
        self._mask: Any = None
        self._with_bias: Any = None

    def begin(self, rows: Rows, longest: int) -> None:
        """See `DecodeAttention.begin`."""

    def attend(
        self, layer: int, query: torch.Tensor, *, rows: Rows, longest: int, scale: float, window: int | None
    ) -> torch.Tensor:
        """See `DecodeAttention.attend`."""
        if layer == 0:
            pages = self._tables.device[rows.slots]
            self._mask = self._block_mask(rows, pages)
            if self._slopes is not None:
                self._with_bias = self._bias(self._slopes, rows, pages)
        count = len(query)
        padded = self._padded(count)
        if padded > count:
            query = torch.cat([query, query.new_zeros(padded - count, *query.shape[1:])])
        keys, values = (
            stored.permute(1, 0, 2).unsqueeze(0) for stored in (self._cache.keys[layer], self._cache.values[layer])
        )
        attended: torch.Tensor = self._function(
            query.unsqueeze(2),
            keys,
            values,
            score_mod=self._with_bias,
            block_mask=self._mask,
            scale=scale,
            enable_gqa=query.shape[1] != keys.shape[1],
            kernel_options={"BLOCK_N": self._cache.page_size} if self._cache.page_size < 64 else None,
        )
        return attended[:count].squeeze(2)

    def _bias(self, slopes: torch.Tensor, rows: Rows, pages: torch.Tensor) -> Any:
        """Of a step: what is added to a score. Keys are known by where they lie, so each page is told what it holds."""
        page_size = self._cache.page_size
        firsts = torch.arange(pages.shape[1], dtype=torch.int32, device=pages.device) * page_size
        nowhere = len(self._cache.keys[0]) // page_size
        starts = torch.zeros(nowhere + 1, dtype=torch.int32, device=pages.device)
        used = firsts < rows.lengths[:, None]  # behind them may be pages that are others' by now
        starts[torch.where(used, pages, nowhere).long()] = firsts.expand_as(pages)
        positions = torch.nn.functional.pad(rows.positions, (0, self._padded(len(pages)) - len(pages)))

        def with_bias(
            score: torch.Tensor, batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
        ) -> torch.Tensor:
            seen = starts[key // page_size] + key % page_size
            return score + slopes[head] * (seen - positions[batch])

        return with_bias

    def _padded(self, count: int) -> int:
        return next((size for size in self._sizes if size >= count), count)

    def _block_mask(self, rows: Rows, pages: torch.Tensor) -> Any:
        from torch.nn.attention.flex_attention import BlockMask

        page_size = self._cache.page_size
        count = len(rows.slots)
        padded = self._padded(count)
        lengths = rows.lengths
        if padded > count:
            pages = torch.cat([pages, pages.new_zeros(padded - count, pages.shape[1])])
            lengths = torch.cat([lengths, lengths.new_zeros(padded - count)])
        num_full = (lengths - 1).clamp(min=0) // page_size
        last = pages.gather(1, num_full[:, None])
        within = (lengths - num_full * page_size).to(torch.int32)

        def visible(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return key % page_size < within[batch]

        return BlockMask.from_kv_blocks(
            (lengths > 0).to(torch.int32)[:, None, None],
            # One partial page, but as wide as the others: the compiled kernel reads both alike.
            torch.nn.functional.pad(last, (0, pages.shape[1] - 1))[:, None, None],
            num_full.to(torch.int32)[:, None, None],
            pages[:, None, None],
            BLOCK_SIZE=(128, page_size),
            mask_mod=visible,
            seq_lengths=(1, len(self._cache.keys[0])),
            compute_q_blocks=False,
        )
