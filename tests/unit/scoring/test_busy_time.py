"""The time of a gang: once, however many batches share it."""

from __future__ import annotations

from contextlib import suppress

from raydsinfer.scoring.busy_time import BusyTime


class Clock:
    """Goes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_overlapping_batches_share_their_time_and_pauses_are_none() -> None:
    clock = Clock()
    busy = BusyTime(clock)
    clock.now_s += 7
    with busy.batch():
        clock.now_s += 3
        with busy.batch():
            clock.now_s += 2
        assert busy.take() == 5
        clock.now_s += 1
    clock.now_s += 50
    assert busy.take() == 1
    assert busy.take() == 0


def test_what_is_still_under_way_is_told_so_far_and_then_the_rest() -> None:
    clock = Clock()
    busy = BusyTime(clock)
    with busy.batch():
        clock.now_s += 4
        assert busy.take() == 4
        clock.now_s += 2
    assert busy.take() == 2


def test_a_batch_that_failed_took_its_time() -> None:
    clock = Clock()
    busy = BusyTime(clock)
    with suppress(RuntimeError), busy.batch():
        clock.now_s += 4
        raise RuntimeError("x")
    clock.now_s += 10
    assert busy.take() == 4
