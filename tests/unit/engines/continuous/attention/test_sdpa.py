from __future__ import annotations

from typing import Any

import pytest
import torch

from raydsinfer.engines.continuous.attention import sdpa
from raydsinfer.engines.continuous.attention.sdpa import SdpaDecode, SdpaPrefill
from tests.paged import Paged

LENGTHS = [1, 7, 20, 16, 33]
SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0625])


@pytest.mark.parametrize("window", [None, 1, 5, 100])
@pytest.mark.parametrize(("heads", "query_heads"), [(2, 4), (3, 3), (1, 5)])
@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_decode_rows_see_their_own_pages(page_size: int, heads: int, query_heads: int, window: int | None) -> None:
    paged = Paged(LENGTHS, page_size=page_size, num_heads=heads, num_query_heads=query_heads)
    slots = [3, 0, 4, 1]
    rows, query = paged.rows(slots), paged.query(4)
    decode = SdpaDecode(paged.cache, paged.tables)
    decode.begin(rows, rows.longest)
    found = decode.attend(0, query, rows=rows, longest=rows.longest, scale=0.3, window=window)
    for index, slot in enumerate(slots):
        expected = paged.attended(slot, LENGTHS[slot] - 1, query[index : index + 1], scale=0.3, window=window)
        torch.testing.assert_close(found[index : index + 1], expected)


@pytest.mark.parametrize("window", [None, 1, 5, 100])
@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_decode_rows_are_biased_by_the_distance_of_keys(page_size: int, window: int | None) -> None:
    paged, slots = Paged(LENGTHS, page_size=page_size), [3, 0, 4, 1]
    rows, query = paged.rows(slots, padded=6), paged.query(6)
    decode = SdpaDecode(paged.cache, paged.tables, SLOPES)
    found = decode.attend(0, query, rows=rows, longest=rows.longest, scale=0.3, window=window)
    for index, slot in enumerate(slots):
        one = query[index : index + 1]
        expected = paged.attended(slot, LENGTHS[slot] - 1, one, scale=0.3, window=window, slopes=SLOPES)
        torch.testing.assert_close(found[index : index + 1], expected)
    assert found.isfinite().all()


def test_rows_of_padding_and_a_longer_gather_change_nothing() -> None:
    paged = Paged(LENGTHS, page_size=4)
    slots, query = [2, 1], paged.query(8)
    rows = paged.rows(slots, padded=8)
    found = SdpaDecode(paged.cache, paged.tables).attend(0, query, rows=rows, longest=33, scale=0.3, window=None)
    assert found.shape == (8, 4, 16)
    for index, slot in enumerate(slots):
        expected = paged.attended(slot, LENGTHS[slot] - 1, query[index : index + 1], scale=0.3)
        torch.testing.assert_close(found[index : index + 1], expected)
    assert found.isfinite().all()


@pytest.mark.parametrize("window", [None, 1, 5, 100])
@pytest.mark.parametrize(("heads", "query_heads"), [(2, 4), (3, 3)])
@pytest.mark.parametrize(
    "chunks",
    [
        [(2, 0, 20)],
        [(2, 0, 12), (0, 0, 1), (4, 0, 33)],
        [(4, 13, 20)],
        [(4, 32, 1), (2, 0, 20), (1, 3, 2), (3, 15, 1)],
    ],
)
def test_chunks_see_what_their_sequences_have_so_far(
    chunks: list[tuple[int, int, int]], heads: int, query_heads: int, window: int | None
) -> None:
    paged = Paged(LENGTHS, page_size=4, num_heads=heads, num_query_heads=query_heads)
    prompts = paged.prompts(chunks)
    query = paged.query(sum(length for _, _, length in chunks))
    key, value = (
        torch.cat([part[slot][start : start + length] for slot, start, length in chunks])
        for part in (paged.keys, paged.values)
    )
    found = SdpaPrefill(paged.cache).attend(0, query, key, value, prompts=prompts, scale=0.3, window=window)
    at = 0
    for slot, start, length in chunks:
        part = slice(at, at + length)
        expected = paged.attended(slot, start, query[part], scale=0.3, window=window)
        torch.testing.assert_close(found[part], expected)
        at += length


@pytest.mark.parametrize("block", [5, 8, 256])
def test_chunks_are_biased_by_the_distance_of_keys(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdpa, "_BLOCK", block)
    paged = Paged(LENGTHS, page_size=4)
    prefill = SdpaPrefill(paged.cache, SLOPES)
    for chunks in ([(2, 0, 20), (0, 0, 1), (4, 0, 33)], [(4, 13, 20), (3, 15, 1), (2, 0, 12)]):
        prompts, query = paged.prompts(chunks), paged.query(sum(length for _, _, length in chunks))
        key, value = (
            torch.cat([part[slot][start : start + length] for slot, start, length in chunks])
            for part in (paged.keys, paged.values)
        )
        for _ in range(2):  # the second time with what the first kept
            found = prefill.attend(0, query, key, value, prompts=prompts, scale=0.3, window=None)
        for (slot, start, _), one, queries in zip(chunks, split(found, chunks), split(query, chunks), strict=True):
            torch.testing.assert_close(one, paged.attended(slot, start, queries, scale=0.3, slopes=SLOPES))


def split(tokens: torch.Tensor, chunks: list[tuple[int, int, int]]) -> tuple[torch.Tensor, ...]:
    return tokens.split([length for _, _, length in chunks])


def test_masks_are_kept_for_the_next_layer_as_far_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    paged = Paged(LENGTHS, page_size=4)
    paged.cache.layers = [paged.cache.layers[0]] * 2
    prefill, query = SdpaPrefill(paged.cache, SLOPES), paged.query(27)
    prompts = paged.prompts([(2, 0, 20), (1, 0, 7)])
    key, value = (torch.cat([part[2], part[1]]) for part in (paged.keys, paged.values))
    made: list[int] = []
    own = sdpa._causal_mask

    def causal_mask(queries: torch.Tensor, total: int, *others: Any) -> torch.Tensor | None:
        made.append(total)
        return own(queries, total, *others)

    monkeypatch.setattr(sdpa, "_causal_mask", causal_mask)
    prefill.attend(0, query, key, value, prompts=prompts, scale=0.3, window=None)
    prefill.attend(1, query, key, value, prompts=prompts, scale=0.3, window=None)
    assert made == [20, 7]
    assert prefill._masks == {}
    monkeypatch.setattr(sdpa, "_MOST_KEPT", len(SLOPES) * 20 * 20)
    prefill.attend(0, query, key, value, prompts=prompts, scale=0.3, window=None)
    assert list(prefill._masks) == [(20, 20, None)]
    prefill.attend(1, query, key, value, prompts=prompts, scale=0.3, window=None)
    assert made == [20, 7, 20, 7, 7]


def test_blocks_are_smaller_the_more_tokens_they_see() -> None:
    prefill = SdpaPrefill(Paged(LENGTHS, page_size=4).cache, torch.ones(32))
    assert [prefill._block(total) for total in (10, 2048, 4096, 2**20)] == [256, 256, 128, 1]
