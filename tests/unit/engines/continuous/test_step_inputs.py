from __future__ import annotations

import pytest

from raydsinfer.engines.continuous.page_tables import PageTables, upload
from raydsinfer.engines.continuous.plan import Chunk, StepPlan
from raydsinfer.engines.continuous.step_inputs import decode_array, prompts_of, rows_of, sampled_of

PAGE_SIZE = 4
PAGES = [[3, 0], [5], [1, 4, 2]]
ROWS = (Chunk(0, 0, 6, 1, (), True, PAGES[0]), Chunk(1, 2, 8, 1, (), True, PAGES[2]))


@pytest.fixture
def tables() -> PageTables:
    tables = PageTables(num_slots=3, pages_per_slot=3, padding_page=6, device="cpu")
    chunks = tuple(Chunk(slot, slot, 0, 1, (), True, pages) for slot, pages in enumerate(PAGES))
    tables.update(StepPlan(0, chunks, (0, 1, 2)))
    return tables


def test_decode_rows_and_padding(tables: PageTables) -> None:
    array = decode_array(ROWS, tables, PAGE_SIZE, 4)
    rows = rows_of(array, upload(array, "cpu"), 2)
    assert rows.slots.tolist() == [0, 2, 3, 3]
    assert rows.positions.tolist() == [6, 8, 0, 0]
    assert rows.where.tolist() == [0 * 4 + 2, 2 * 4 + 0, 6 * 4, 6 * 4]  # padding writes to the page of nobody
    assert rows.lengths.tolist() == [7, 9, 1, 1]
    assert rows.host_slots.tolist() == [0, 2]
    assert rows.host_lengths.tolist() == [7, 9]
    assert rows.longest == 9


def test_rows_of_padding_alone_see_one_token(tables: PageTables) -> None:
    array = decode_array((), tables, PAGE_SIZE, 2)
    rows = rows_of(array, upload(array, "cpu"), 0)
    assert rows.longest == 1
    assert rows.slots.tolist() == [3, 3]


def test_chunks_from_the_start_see_themselves(tables: PageTables) -> None:
    chunks = (Chunk(0, 1, 0, 3, (11, 12, 13), True, PAGES[1]), Chunk(1, 0, 0, 5, (21, 22, 23, 24, 25), False, PAGES[0]))
    prompts = prompts_of(chunks, tables, PAGE_SIZE, "cpu")
    assert prompts.token_ids.tolist() == [11, 12, 13, 21, 22, 23, 24, 25]
    assert prompts.positions.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert prompts.where.tolist() == [20, 21, 22, 12, 13, 14, 15, 0]
    assert prompts.starts.tolist() == prompts.seen_starts.tolist() == [0, 3, 8]
    assert prompts.seen is None


def test_a_later_chunk_sees_what_lies_in_the_cache(tables: PageTables) -> None:
    chunks = (Chunk(0, 1, 0, 2, (11, 12), True, PAGES[1]), Chunk(1, 2, 3, 3, (21, 22, 23), False, PAGES[2]))
    prompts = prompts_of(chunks, tables, PAGE_SIZE, "cpu")
    assert prompts.positions.tolist() == [0, 1, 3, 4, 5]
    assert prompts.where.tolist() == [20, 21, 7, 16, 17]
    assert prompts.starts.tolist() == [0, 2, 5]
    assert prompts.seen is not None
    assert prompts.seen.tolist() == [20, 21, 4, 5, 6, 7, 16, 17]
    assert prompts.seen_starts.tolist() == [0, 2, 8]


def test_tokens_are_sampled_behind_the_chunks_that_end_a_prompt() -> None:
    chunks = (
        *ROWS,
        Chunk(2, 1, 0, 3, (1, 2, 3), False, PAGES[1]),
        Chunk(3, 3, 2, 4, (4, 5, 6, 7), True, PAGES[2]),
    )
    places, slots, positions, host_slots = sampled_of(StepPlan(0, chunks), "cpu")
    assert places.tolist() == [0, 1, 8]
    assert slots.tolist() == host_slots == [0, 2, 3]
    assert positions.tolist() == [7, 9, 6]


def test_a_part_of_a_prompt_samples_nothing() -> None:
    plan = StepPlan(0, (Chunk(2, 1, 0, 3, (1, 2, 3), False, PAGES[1]),))
    places, slots, positions, host_slots = sampled_of(plan, "cpu")
    assert [len(places), len(slots), len(positions), len(host_slots)] == [0, 0, 0, 0]
