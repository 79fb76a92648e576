from __future__ import annotations

import pytest
import torch

from raydsinfer.engines.continuous.attention.sdpa import SdpaDecode, SdpaPrefill
from tests.paged import Paged

LENGTHS = [1, 7, 20, 16, 33]


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
