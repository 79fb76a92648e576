from __future__ import annotations

import pytest
import torch

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.continuous.sampling.settings import Passes
from raydsinfer.engines.continuous.sampling.slots import SlotTable
from raydsinfer.errors import InvalidSettingError


def table(num_slots: int = 3, max_tokens: int = 6) -> SlotTable:
    return SlotTable(num_slots=num_slots, max_tokens=max_tokens, vocab_size=100, device="cpu")


def test_the_device_learns_of_admissions_by_a_flush() -> None:
    slots = table()
    slots.admit(2, [7, 8, 9], 3, GenerationConfig(repetition_penalty=1.5), seed=5)
    slots.admit(0, [4], 1, GenerationConfig(do_sample=True, temperature=0.5), seed=-6)
    assert slots.history.sum() == 0
    slots.flush()
    assert slots.history.tolist() == [[4, 0, 0, 0, 0, 0, 0], [0] * 7, [7, 8, 9, 0, 0, 0, 0], [0] * 7]
    rows = torch.tensor([2, 0, 3])
    assert slots.integers(rows).seed.tolist() == [5, -6, 0]
    assert slots.integers(rows).num_prompt.tolist() == [3, 1, 0]
    assert slots.fractions(rows).temperature.tolist() == [1.0, 0.5, 1.0]
    assert slots.fractions(rows).repetition_penalty.tolist() == [1.5, 1.0, 1.0]


def test_the_last_of_two_admissions_to_a_slot_counts() -> None:
    slots = table()
    slots.admit(1, [1, 2, 3, 4], 4, GenerationConfig(do_sample=True), seed=1)
    slots.admit(1, [9], 1, GenerationConfig(), seed=2)
    slots.flush()
    slots.flush()
    assert slots.history[1].tolist() == [9, 0, 0, 0, 0, 0, 0]
    assert slots.integers(torch.tensor([1])).seed.tolist() == [2]
    assert slots.passes([1]) == Passes()


def test_what_slots_need_follows_who_is_in_them() -> None:
    slots = table()
    assert slots.is_plain([0, 1, 2, 3])
    slots.admit(1, [1], 1, GenerationConfig(no_repeat_ngram_size=2), seed=0)
    assert slots.is_plain([0, 2, 3])
    assert not slots.is_plain([0, 1])
    assert slots.passes([0, 1]) == Passes(ngram_size=2)
    slots.admit(1, [1], 1, GenerationConfig(), seed=0)
    assert slots.is_plain([0, 1])


def test_histories_are_as_wide_as_the_longest_may_become() -> None:
    slots = table(max_tokens=1000)
    slots.admit(0, [3] * 300, 300, GenerationConfig(max_new_tokens=100), seed=0)
    slots.admit(1, [3] * 5, 5, GenerationConfig(max_new_tokens=900), seed=0)
    slots.flush()
    rows = torch.tensor([0, 3])
    assert slots.histories(rows, [0]).shape == (2, 512)
    assert slots.histories(rows, [0, 1]).shape == (2, 1001)
    assert slots.histories(rows, []).shape == (2, 256)


def test_a_sequence_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidSettingError, match=r"=7 .*at most max_tokens=6.*raise max_tokens"):
        table().admit(0, [1] * 7, 7, GenerationConfig(), seed=0)
