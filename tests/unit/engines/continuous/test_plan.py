"""Limits and plans."""

from __future__ import annotations

import pytest

from raydsinfer.engines.continuous.plan import Chunk, Limits, StepPlan
from raydsinfer.errors import InvalidSettingError, RowError

LIMITS = Limits(max_running=2, max_step_tokens=8, num_pages=4, page_size=4)


@pytest.mark.parametrize("name", ["max_running", "max_step_tokens", "num_pages", "page_size", "min_admission"])
def test_a_limit_below_one_is_refused(name: str) -> None:
    numbers = {"max_running": 2, "max_step_tokens": 8, "num_pages": 4, "page_size": 4, "min_admission": 1}
    with pytest.raises(InvalidSettingError, match=f"{name}=0 cannot be used: expected 1 or more"):
        Limits(**{**numbers, name: 0})  # type: ignore[arg-type]


def test_what_fills_the_whole_cache_is_taken() -> None:
    LIMITS.check(10, 6)


def test_what_could_never_fit_is_refused_with_tokens_limit_and_next_step() -> None:
    with pytest.raises(
        RowError, match=r"10 tokens and max_new_tokens is 7, together 17, .* holds 16; shorten"
    ) as caught:
        LIMITS.check(10, 7)
    assert caught.value.kind == "length"


def test_what_is_longer_than_a_sequence_may_be_is_refused_however_much_room_there_is() -> None:
    limits = Limits(max_running=2, max_step_tokens=8, num_pages=100, page_size=4, max_tokens=16)
    limits.check(10, 6)
    with pytest.raises(RowError, match="together 17, but max_tokens is 16; shorten the prompt") as caught:
        limits.check(10, 7)
    assert caught.value.kind == "length"


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(RowError, match="prompt: the prompt has no tokens"):
        LIMITS.check(0, 4)


def test_a_request_for_nothing_is_refused() -> None:
    with pytest.raises(RowError, match="generation: max_new_tokens=0"):
        LIMITS.check(4, 0)


def test_a_plan_knows_its_tokens_and_whether_it_only_decodes() -> None:
    row = Chunk(0, 0, 7, 1, (), True, [0, 1])
    prefill = Chunk(1, 1, 0, 3, (5, 6, 7), True, [2])
    assert row.is_decode
    assert not prefill.is_decode
    assert StepPlan(0, (row,)).is_decode_only
    mixed = StepPlan(1, (row, prefill))
    assert not mixed.is_decode_only
    assert mixed.num_tokens == 4
