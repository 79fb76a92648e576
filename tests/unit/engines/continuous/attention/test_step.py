from __future__ import annotations

from typing import Any

import pytest
import torch

from raydsinfer.engines.continuous.attention.sdpa import SdpaDecode, SdpaPrefill
from raydsinfer.engines.continuous.attention.step import StepAttention
from raydsinfer.engines.continuous.page_tables import upload
from raydsinfer.engines.continuous.step_inputs import decode_array, prompts_of, rows_of
from tests.paged import Paged

LENGTHS, ROWS, CHUNKS = [9, 14, 6, 22], [3, 0], [(1, 4, 10), (2, 0, 6)]


@pytest.mark.parametrize("window", [None, 3, 64])
@pytest.mark.parametrize(("slots", "chunks"), [(ROWS, CHUNKS), (ROWS, []), ([], CHUNKS)])
def test_a_step_stores_its_keys_and_values_and_attends_to_them(
    slots: list[int], chunks: list[tuple[int, int, int]], window: int | None
) -> None:
    paged = Paged(LENGTHS, page_size=4)
    parts = [(slot, LENGTHS[slot] - 1, 1) for slot in slots] + chunks
    plan = paged.plan(slots, chunks)
    for slot, start, length in parts:  # not stored yet
        for position in range(start, start + length):
            paged.cache.keys[0][paged.place(slot, position)] = 50.0
            paged.cache.values[0][paged.place(slot, position)] = 1e4
    array = decode_array(plan.chunks[: len(slots)], paged.tables, 4, len(slots))
    attention = StepAttention(
        cache=paged.cache,
        rows=rows_of(array, upload(array, "cpu"), len(slots)) if slots else None,
        prompts=prompts_of(plan.chunks[len(slots) :], paged.tables, 4, "cpu") if chunks else None,
        longest=22,
        decode=SdpaDecode(paged.cache, paged.tables),
        prefill=SdpaPrefill(paged.cache),
        max_tokens=64,
    )
    query = paged.query(sum(length for _, _, length in parts))
    key, value = (
        torch.cat([part[slot][start : start + length] for slot, start, length in parts])
        for part in (paged.keys, paged.values)
    )
    found = attention.attend(0, query, key, value, scale=0.25, window=window)
    at = 0
    for slot, start, length in parts:
        part = slice(at, at + length)
        expected = paged.attended(slot, start, query[part], scale=0.25, window=window)
        torch.testing.assert_close(found[part], expected)
        at += length


@pytest.mark.parametrize(("window", "given"), [(7, 7), (63, 63), (64, None), (4096, None), (None, None)])
def test_a_window_as_wide_as_the_longest_sequence_is_none(window: int | None, given: int | None) -> None:
    """Not every way to attend supports windows."""
    windows = []

    class Decode(SdpaDecode):
        def attend(self, layer: int, query: torch.Tensor, **others: Any) -> torch.Tensor:
            windows.append(others["window"])
            return query

    paged = Paged(LENGTHS, page_size=4)
    attention = StepAttention(
        cache=paged.cache,
        rows=paged.rows(ROWS),
        prompts=None,
        longest=22,
        decode=Decode(paged.cache, paged.tables),
        prefill=SdpaPrefill(paged.cache),
        max_tokens=64,
    )
    key = paged.random(2, 2)
    attention.attend(0, paged.query(2), key, key, scale=0.25, window=window)
    assert windows == [given]
