"""One gang for all threads of a predictor's actor: started once, replaced once, and an end that all hear of."""

from __future__ import annotations

import threading

import pytest

from raydsinfer.errors import EngineError, WorkerGroupError
from raydsinfer.scoring.gang_holder import GangHolder


class Gang:
    """Stands in for a predictor; counts."""

    def __init__(self) -> None:
        self.num_restarts, self.closed = 0, 0

    def shutdown(self) -> None:
        self.closed += 1


def test_it_starts_when_it_is_needed_and_once() -> None:
    started: list[Gang] = []

    def start() -> Gang:
        started.append(Gang())
        return started[-1]

    holder = GangHolder(start)
    assert started == []
    assert holder.restarts() == 0
    threads = [threading.Thread(target=holder.get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert holder.get() is started[0]
    assert len(started) == 1


def test_whoever_finds_it_useless_it_is_replaced_once() -> None:
    holder = GangHolder(Gang)
    first = holder.get()
    holder.discard(first)
    second = holder.get()
    holder.discard(first)
    assert (first.closed, second.closed) == (1, 0)
    assert holder.get() is second


def test_a_start_that_fails_is_not_tried_again() -> None:
    tries: list[int] = []

    def start() -> Gang:
        tries.append(1)
        raise EngineError(doing="loading", reason="no memory")

    holder = GangHolder(start)
    for _ in range(2):
        with pytest.raises(EngineError, match="no memory"):
            holder.get()
    assert len(tries) == 1


def test_an_end_is_everybodys_and_the_first_counts() -> None:
    holder = GangHolder(Gang)
    holder.get()
    for name in ("first", "second"):
        holder.fail(WorkerGroupError(gang=name, phase="generate", causes={0: RuntimeError("x")}))
    with pytest.raises(WorkerGroupError, match="first failed"):
        holder.get()


def test_restarts_are_told_once_also_of_a_new_gang() -> None:
    holder = GangHolder(Gang)
    first = holder.get()
    first.num_restarts = 3
    assert [holder.restarts(), holder.restarts()] == [3, 0]
    first.num_restarts = 4
    assert holder.restarts() == 1
    holder.discard(first)
    holder.get().num_restarts = 2
    assert holder.restarts() == 2
