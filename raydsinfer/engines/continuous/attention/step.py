"""The attention of one packed step: writes keys and values to the cache, then attends from decode rows and prompts."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from raydsinfer.engines.continuous.attention.base import DecodeAttention, PrefillAttention
from raydsinfer.engines.continuous.kv_cache import KVCache
from raydsinfer.engines.continuous.step_inputs import Prompts, Rows


@dataclass(frozen=True, kw_only=True)
class StepAttention:
    """What `Routes` lead a model's layers to.

    Args:
        cache: Keys and values.
        rows: Decode rows of the step, or None.
        prompts: Prefill chunks of the step, or None.
        longest: Tokens that no decode row sees more of.
        decode: Attends from the rows.
        prefill: Attends from the prompts.
        max_tokens: Tokens of the longest sequence: a window that wide is none.
    """

    cache: KVCache
    rows: Rows | None
    prompts: Prompts | None
    longest: int
    decode: DecodeAttention
    prefill: PrefillAttention
    max_tokens: int

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """See `LayerAttention.attend`."""
        if window is not None and window >= self.max_tokens:
            window = None
        rows, prompts = self.rows, self.prompts
        if rows is not None and prompts is not None:
            count = len(rows.slots)
            where = torch.cat([rows.where, prompts.where])
            self.cache.write(layer, where, key, value)
            return torch.cat(
                [
                    self._from_rows(layer, query[:count], rows, scale, window),
                    self._from_prompts(layer, query[count:], key[count:], value[count:], prompts, scale, window),
                ]
            )
        if rows is not None:
            self.cache.write(layer, rows.where, key, value)
            return self._from_rows(layer, query, rows, scale, window)
        assert prompts is not None  # noqa: S101  (a step has one or the other)
        self.cache.write(layer, prompts.where, key, value)
        return self._from_prompts(layer, query, key, value, prompts, scale, window)

    def _from_rows(self, layer: int, query: torch.Tensor, rows: Rows, scale: float, window: int | None) -> torch.Tensor:
        return self.decode.attend(layer, query, rows=rows, longest=self.longest, scale=scale, window=window)

    def _from_prompts(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        prompts: Prompts,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        return self.prefill.attend(layer, query, key, value, prompts=prompts, scale=scale, window=window)
