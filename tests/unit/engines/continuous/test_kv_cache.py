from __future__ import annotations

import pytest
import torch

from raydsinfer.engines.continuous.kv_cache import KVCache, LayerShape, bytes_per_token, count_pages
from raydsinfer.errors import EngineError

LAYERS = [
    LayerShape(num_heads=2, num_query_heads=4, key_size=8, value_size=8),
    LayerShape(num_heads=1, num_query_heads=4, key_size=8, value_size=4),
]
SIZES = {"page_size": 16, "token_bytes": 1000, "max_tokens": 40, "most": 100}


def test_bytes_of_a_token_count_every_layer() -> None:
    assert bytes_per_token(LAYERS, 2) == 2 * (2 * 16 + 12)


def test_one_page_is_kept_for_padding() -> None:
    assert count_pages(10 * 16_000, **SIZES) == 9
    assert count_pages(11 * 16_000 - 1, **SIZES) == 9
    assert count_pages(10**9, **SIZES) == 100


def test_one_sequence_must_fit() -> None:
    assert count_pages(4 * 16_000, **SIZES) == 3
    with pytest.raises(EngineError) as caught:
        count_pages(4 * 16_000 - 1, **SIZES)
    text = str(caught.value)
    assert "one sequence of max_tokens=40 needs 64.0 kB" in text
    assert "there are 64.0 kB for it" in text
    assert "raise kv_cache_bytes" in text


def test_no_memory_at_all_is_said_as_nothing() -> None:
    with pytest.raises(EngineError, match="there are 0 bytes for it"):
        count_pages(-(10**9), **SIZES)


def test_the_cache_has_a_page_for_padding_behind_the_others() -> None:
    cache = KVCache(LAYERS, num_pages=3, page_size=4, dtype=torch.float16, device="cpu")
    assert [tuple(keys.shape) for keys in cache.keys] == [(16, 2, 8), (16, 1, 8)]
    assert [tuple(values.shape) for values in cache.values] == [(16, 2, 8), (16, 1, 4)]
    assert cache.padding_page == 3
    assert cache.num_tokens == 12


def test_writes_land_where_they_should() -> None:
    cache = KVCache(LAYERS, num_pages=3, page_size=4, dtype=torch.float32, device="cpu")
    key, value = torch.randn(2, 1, 8), torch.randn(2, 1, 4)
    cache.write(1, torch.tensor([9, 2]), key, value)
    assert torch.equal(cache.keys[1][[9, 2]], key)
    assert torch.equal(cache.values[1][[9, 2]], value)
    assert cache.keys[1].count_nonzero() == 16
    assert cache.keys[0].count_nonzero() == 0
