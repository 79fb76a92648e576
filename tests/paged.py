"""Sequences in a paged KV cache, and what attention over them should give, computed the long way."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from raydsinfer.engines.continuous.kv_cache import KVCache, LayerShape
from raydsinfer.engines.continuous.page_tables import PageTables
from raydsinfer.engines.continuous.plan import Chunk, StepPlan
from raydsinfer.engines.continuous.step_inputs import Prompts, Rows, decode_array, prompts_of, rows_of


class Paged:
    """A cache of one layer with random keys and values. Pages of the sequences lie in disorder.

    What belongs to nobody is large, so that reading it shows.

    Args:
        lengths: Tokens of the sequence in each slot.
        page_size: Tokens of a page.
        num_heads: Key-value heads.
        num_query_heads: Query heads.
        size: Numbers of a key and of a value.
    """

    def __init__(
        self, lengths: Sequence[int], *, page_size: int, num_heads: int = 2, num_query_heads: int = 4, size: int = 16
    ) -> None:
        chance = torch.Generator().manual_seed(0)
        self.page_size, self.num_query_heads, self.size, self.chance = page_size, num_query_heads, size, chance
        shape = LayerShape(num_heads=num_heads, num_query_heads=num_query_heads, key_size=size, value_size=size)
        counts = [-(-length // page_size) for length in lengths]
        num_pages = sum(counts) + 2
        self.cache = KVCache([shape], num_pages=num_pages, page_size=page_size, dtype=torch.float32, device="cpu")
        self.cache.keys[0].fill_(50.0)
        self.cache.values[0].fill_(1e4)
        self.tables = PageTables(
            num_slots=len(lengths), pages_per_slot=max(counts), padding_page=self.cache.padding_page, device="cpu"
        )
        pages = torch.randperm(num_pages, generator=chance).split([*counts, 2])
        self.pages = [part.tolist() for part in pages[:-1]]
        self.keys = [self.random(length, num_heads) for length in lengths]
        self.values = [self.random(length, num_heads) for length in lengths]
        for slot, length in enumerate(lengths):
            where = torch.tensor([self.place(slot, position) for position in range(length)])
            self.cache.write(0, where, self.keys[slot], self.values[slot])

    def random(self, tokens: int, heads: int) -> torch.Tensor:
        """(tokens, heads, size)."""
        return torch.randn(tokens, heads, self.size, generator=self.chance)

    def place(self, slot: int, position: int) -> int:
        """Where a position of a sequence lies in the cache."""
        return int(self.pages[slot][position // self.page_size]) * self.page_size + position % self.page_size

    def plan(self, rows: Sequence[int] = (), prompts: Sequence[tuple[int, int, int]] = ()) -> StepPlan:
        """A step with decode rows of these slots, at their last token, and chunks (slot, start, length)."""
        chunks = [Chunk(slot, slot, len(self.keys[slot]) - 1, 1, (), True, self.pages[slot]) for slot in rows]
        chunks += [
            Chunk(slot, slot, start, length, tuple(range(start, start + length)), True, self.pages[slot])
            for slot, start, length in prompts
        ]
        plan = StepPlan(0, tuple(chunks), tuple(chunk.slot for chunk in chunks))
        self.tables.update(plan)
        return plan

    def rows(self, slots: Sequence[int], padded: int | None = None) -> Rows:
        """Decode rows of these slots, at their last token, and rows of padding."""
        array = decode_array(self.plan(rows=slots).chunks, self.tables, self.page_size, padded or len(slots))
        return rows_of(array, torch.from_numpy(array.copy()), len(slots))

    def prompts(self, chunks: Sequence[tuple[int, int, int]]) -> Prompts:
        """Chunks (slot, start, length)."""
        return prompts_of(self.plan(prompts=chunks).chunks, self.tables, self.page_size, "cpu")

    def query(self, tokens: int) -> torch.Tensor:
        """Random queries (tokens, heads, size)."""
        return self.random(tokens, self.num_query_heads)

    def attended(
        self,
        slot: int,
        start: int,
        query: torch.Tensor,
        *,
        scale: float,
        window: int | None = None,
        slopes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attention from positions `start` and on of a sequence, token by token and head by head."""
        group = self.num_query_heads // self.keys[slot].shape[1]
        out = torch.empty_like(query)
        for index in range(len(query)):
            end = start + index + 1
            first = 0 if window is None else max(0, end - window)
            for head in range(self.num_query_heads):
                keys, values = (part[slot][first:end, head // group] for part in (self.keys, self.values))
                scores = keys @ query[index, head] * scale
                if slopes is not None:
                    scores += slopes[head] * torch.arange(first, end)
                out[index, head] = torch.softmax(scores, 0) @ values
        return out
