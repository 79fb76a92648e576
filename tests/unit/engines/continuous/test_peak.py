"""The estimate of the future peak, against what comes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydsinfer.engines.continuous.peak import LearntShare, PeakEstimate

sequences = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=12)


def peak_of(held: list[int], left: list[int], *, page_size: int = 4) -> int:
    return PeakEstimate(held, left, capacity=len(held), page_size=page_size).peak()


def played_out(stored: list[int], left: list[int]) -> int:
    """The largest number of positions stored at once, if all go on token by token and leave at their end."""
    return max(
        sum(have + step for have, rest in zip(stored, left, strict=True) if rest >= step)
        for step in range(max(left) + 1)
    )


@given(sequences)
def test_with_pages_of_one_token_it_is_what_happens(pairs: list[tuple[int, int]]) -> None:
    stored, left = [have for have, _ in pairs], [rest for _, rest in pairs]
    assert peak_of(stored, left, page_size=1) == played_out(stored, left)


@given(sequences, st.integers(2, 8))
def test_larger_pages_are_off_by_less_than_one_a_sequence(pairs: list[tuple[int, int]], size: int) -> None:
    stored, left = [have for have, _ in pairs], [rest for _, rest in pairs]
    real = max(sum(-(-(have + step) // size) for have, rest in pairs if rest >= step) for step in range(max(left) + 1))
    estimate = peak_of([-(-have // size) for have in stored], left, page_size=size)
    assert abs(estimate - real) <= len(pairs)


@given(sequences, st.integers(0, 11))
def test_one_that_is_expected_to_go_on_longer_never_lowers_the_peak(pairs: list[tuple[int, int]], index: int) -> None:
    held, left = [have for have, _ in pairs], [rest for _, rest in pairs]
    longer = list(left)
    longer[index % len(left)] += 5
    assert peak_of(held, left) <= peak_of(held, longer)


@given(sequences)
def test_adding_one_by_one_is_all_at_once_and_can_be_taken_back(pairs: list[tuple[int, int]]) -> None:
    held, left = [have for have, _ in pairs], [rest for _, rest in pairs]
    estimate = PeakEstimate(held[:1], left[:1], capacity=len(pairs), page_size=4)
    alone = estimate.peak()
    for have, rest in pairs[1:]:
        estimate.add(have, rest)
    assert estimate.peak() == peak_of(held, left)
    estimate.drop(len(pairs) - 1)
    assert estimate.peak() == alone


def test_those_that_end_first_make_room_for_those_that_last() -> None:
    # Together 2 * 10 + 20 pages at their longest, but the short one is gone by then.
    assert peak_of([10, 10], [0, 20], page_size=1) == 30


def test_nothing_holds_nothing() -> None:
    assert PeakEstimate([], [], capacity=4, page_size=4).peak() == 0


def test_the_share_starts_at_one_and_goes_to_what_is_seen() -> None:
    share = LearntShare()
    assert share.value == 1.0
    share.learn(25, 100)
    assert 0.95 < share.value < 1.0
    for _ in range(500):
        share.learn(25, 100)
    assert share.value == pytest.approx(0.25, abs=1e-4)
    for _ in range(500):
        share.learn(100, 100)
    assert share.value == pytest.approx(1.0, abs=1e-4)
