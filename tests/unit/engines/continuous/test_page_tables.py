from __future__ import annotations

import numpy as np
import torch

from raydsinfer.engines.continuous.page_tables import PageTables, upload
from raydsinfer.engines.continuous.plan import Chunk, StepPlan


def step(*chunks: tuple[int, int, list[int]], admitted: tuple[int, ...] = ()) -> StepPlan:
    """Decode rows (sequence, slot, pages)."""
    return StepPlan(0, tuple(Chunk(number, slot, 0, 1, (), True, pages) for number, slot, pages in chunks), admitted)


def make_tables() -> PageTables:
    return PageTables(num_slots=2, pages_per_slot=3, padding_page=9, device="cpu")


def test_empty_places_and_the_padding_slot_hold_the_padding_page() -> None:
    tables = make_tables()
    assert tables.host.tolist() == [[9, 9, 9]] * 3
    assert tables.device.tolist() == tables.host.tolist()


def test_pages_are_taken_over_as_a_sequence_grows() -> None:
    tables, pages = make_tables(), [5]
    tables.update(step((0, 1, pages), admitted=(0,)))
    pages.append(2)
    tables.update(step((0, 1, pages)))
    assert tables.host.tolist() == [[9, 9, 9], [5, 2, 9], [9, 9, 9]]
    assert tables.device.tolist() == tables.host.tolist()


def test_a_slot_changes_hands_with_the_sequence_that_gets_it() -> None:
    tables = make_tables()
    tables.update(step((0, 0, [5, 2, 1]), (1, 1, [7]), admitted=(0, 1)))
    tables.update(step((1, 1, [7]), (2, 0, [4, 6]), admitted=(2,)))
    assert tables.device[0, :2].tolist() == [4, 6]
    assert tables.device[1, :1].tolist() == [7]
    # The same sequence again, after a preemption, with other pages in the same slot.
    tables.update(step((2, 0, [8, 3]), admitted=(2,)))
    assert tables.device[0, :2].tolist() == [8, 3]


def test_an_upload_is_a_copy() -> None:
    array = np.array([1, 2])
    tensor = upload(array, "cpu")
    array[:] = 0
    assert torch.equal(tensor, torch.tensor([1, 2]))
