"""The KV cache: pages of keys and values for every layer, on this rank's device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from raydsinfer.checkpoints.sizes import size_in_words
from raydsinfer.errors import EngineError


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """Keys and values of one token in one layer, on one rank.

    Args:
        num_heads: Key-value heads that this rank holds; ranks may hold different numbers.
        num_query_heads: Heads that ask.
        key_size: Numbers of a key.
        value_size: Numbers of a value.
    """

    num_heads: int
    num_query_heads: int
    key_size: int
    value_size: int

    @property
    def numbers(self) -> int:
        """Numbers of a token's key and value."""
        return self.num_heads * (self.key_size + self.value_size)


def bytes_per_token(layers: Sequence[LayerShape], itemsize: int) -> int:
    """Bytes of the cache for each token, all layers together."""
    return sum(layer.numbers for layer in layers) * itemsize


def count_pages(num_bytes: int, *, page_size: int, token_bytes: int, max_tokens: int, most: int) -> int:
    """Pages that a rank has memory for.

    Args:
        num_bytes: Bytes for the cache.
        page_size: Tokens of a page.
        token_bytes: Bytes of a token, see `bytes_per_token`.
        max_tokens: Tokens of the longest sequence, which must fit alone.
        most: More are never needed.

    Raises:
        EngineError: Not even one sequence of `max_tokens` fits.
    """
    page_bytes = page_size * token_bytes
    # One page more than are given out: rows that only fill up a captured batch write there.
    pages = min(num_bytes // page_bytes - 1, most)
    needed = -(-max_tokens // page_size)
    if pages < needed:
        raise EngineError(
            doing="reserving the KV cache",
            reason=f"there are {size_in_words(max(0, num_bytes))} for it, but one sequence of max_tokens={max_tokens} "
            f"needs {size_in_words((needed + 1) * page_bytes)}",
            hint="Lower max_tokens, raise kv_cache_bytes or gpu_memory_utilization, or use more ranks.",
        )
    return int(pages)


class KVCache:
    """Keys and values by layer, each (positions, heads, size); a page is `page_size` positions in a row.

    Args:
        layers: Shape of each layer on this rank.
        num_pages: Pages that the scheduler gives out; there is one more, for padding.
        page_size: Tokens of a page.
        dtype: Of keys and values.
        device: Where they lie.
    """

    def __init__(
        self, layers: Sequence[LayerShape], *, num_pages: int, page_size: int, dtype: torch.dtype, device: str
    ) -> None:
        self.layers, self.num_pages, self.page_size = tuple(layers), num_pages, page_size
        positions = (num_pages + 1) * page_size
        self.keys = [_zeros((positions, layer.num_heads, layer.key_size), dtype, device) for layer in layers]
        self.values = [_zeros((positions, layer.num_heads, layer.value_size), dtype, device) for layer in layers]

    @property
    def padding_page(self) -> int:
        """The page that belongs to nobody."""
        return self.num_pages

    @property
    def num_tokens(self) -> int:
        """Tokens that sequences can have in the cache together."""
        return self.num_pages * self.page_size

    def write(self, layer: int, where: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Store the keys and values of a step.

        Args:
            layer: Index of the layer.
            where: Position in the cache of each token, (tokens,).
            key: (tokens, heads, key size).
            value: (tokens, heads, value size).
        """
        self.keys[layer].index_copy_(0, where, key)
        self.values[layer].index_copy_(0, where, value)


def _zeros(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> torch.Tensor:
    """Zeros, not whatever the memory held: attention over padding multiplies it by zero, and NaN would stay NaN."""
    if device != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # The system hands out zeroed memory page by page when it is written to; torch would write all of it at once.
    whole = np.zeros(shape[0] * shape[1] * shape[2] * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(whole).view(dtype).view(shape)
