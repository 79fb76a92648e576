from __future__ import annotations

import pytest

from raydsinfer.config import GangConfig
from raydsinfer.engines.base import Pulse
from raydsinfer.groups.deadlines import Lapse, Patience, StepLimits, limits_for

CONFIG = GangConfig(first_step_timeout_s=100, step_timeout_s=10, heartbeat_timeout_s=5)
LIMITS = limits_for("generate", CONFIG, is_warm=True)


class Rank:
    """A rank that is asked each second of a time that is told."""

    def __init__(self, patience: Patience, rank: int = 0) -> None:
        self.patience, self.rank = patience, rank

    def answers(self, now: float, num_steps: int = 0, **pulse: object) -> dict[int, Lapse]:
        self.patience.asked(self.rank, now)
        self.patience.heard(
            self.rank, Pulse(**{"phase": "generate", "num_calls": 1, "num_steps": num_steps, **pulse}), now
        )
        return self.patience.lapses(now)


def test_limits_of_a_call() -> None:
    assert StepLimits(first_step_s=100, step_s=10, heartbeat_s=5) == LIMITS
    loading = limits_for("load", CONFIG, is_warm=False)
    assert (loading.first_step_s, loading.step_s, loading.together) == (100, 100, True)


def test_a_continuous_engine_that_has_answered_has_no_first_step() -> None:
    assert limits_for("advance", CONFIG, is_warm=False).first_step_s == 100
    assert limits_for("advance", CONFIG, is_warm=True).first_step_s == 10


def test_the_first_step_has_its_own_limit() -> None:
    rank = Rank(Patience([0], LIMITS, now=0))
    assert not any(rank.answers(now) for now in range(101))
    assert rank.answers(101) == {0: Lapse(kind="stuck", limit_s=100, pulse=Pulse(phase="generate", num_calls=1))}


def test_each_step_has_the_limit_from_the_one_before() -> None:
    rank = Rank(Patience([0], LIMITS, now=0))
    assert not any(rank.answers(now, num_steps=1 + now // 9) for now in range(200))
    rank.answers(200, num_steps=50)
    assert not rank.answers(210, num_steps=50)
    (lapse,) = rank.answers(211, num_steps=50).values()
    assert lapse.limit_s == 10
    assert str(lapse) == "did not get on with step 51 of generate"


def test_who_moves_again_in_time_is_left_alone() -> None:
    rank = Rank(Patience([0], LIMITS, now=0))
    rank.answers(0, num_steps=1)
    assert rank.answers(11, num_steps=1)
    assert not rank.answers(12, num_steps=2)


def test_slow_steps_get_more() -> None:
    rank = Rank(Patience([0], LIMITS, now=0))
    rank.answers(0, num_steps=3, slowest_step_s=8.0)
    assert not rank.answers(32, num_steps=3, slowest_step_s=8.0)
    assert rank.answers(33, num_steps=3, slowest_step_s=8.0)[0].limit_s == 32


def test_a_process_that_does_not_answer_is_silent() -> None:
    patience = Patience([0, 1], LIMITS, now=0)
    patience.asked(0, 1)
    patience.asked(1, 1)
    patience.heard(0, Pulse(), 1)
    assert patience.lapses(6) == {}
    lapses = patience.lapses(6.1)
    assert [(rank, lapse.kind, lapse.limit_s) for rank, lapse in lapses.items()] == [(1, "silent", 5)]
    assert str(lapses[1]) == "gave no sign of life"


def test_a_caller_that_slept_blames_nobody_for_it() -> None:
    patience = Patience([0, 1], LIMITS, now=0)
    for rank in (0, 1):
        patience.asked(rank, 1)
        patience.heard(rank, Pulse(phase="generate", num_calls=1, num_steps=1), 1)
    patience.asked(0, 2)
    patience.asked(1, 2)
    patience.overslept(600)
    patience.heard(0, Pulse(phase="generate", num_calls=1, num_steps=1), 602)  # asked and answered before the sleep
    assert patience.lapses(602) == {}
    assert list(patience.lapses(608)) == [1]


def test_of_ranks_that_are_stuck_the_one_furthest_behind_is_named() -> None:
    patience = Patience([0, 1, 2], LIMITS, now=0)
    ranks = [Rank(patience, rank) for rank in range(3)]
    for now in (1, 12):
        for rank, steps in zip(ranks, (8, 7, 8), strict=True):
            rank.answers(now, num_steps=steps)
    assert list(patience.lapses(12)) == [1]


def test_a_rank_that_is_silent_is_what_those_that_are_stuck_wait_for() -> None:
    patience = Patience([0, 1], LIMITS, now=0)
    for rank in (0, 1):
        Rank(patience, rank).answers(1, num_steps=1)
    patience.asked(1, 9.5)
    Rank(patience, 0).answers(12, num_steps=1)
    assert [(rank, lapse.kind) for rank, lapse in patience.lapses(12).items()] == [(1, "silent")]


def test_ranks_that_are_stuck_together_are_all_named() -> None:
    patience = Patience([0, 1], LIMITS, now=0)
    for now in (1, 12):
        for rank in (0, 1):
            Rank(patience, rank).answers(now, num_steps=8)
    assert list(patience.lapses(12)) == [0, 1]


def test_who_has_answered_is_not_watched() -> None:
    patience = Patience([0, 1], LIMITS, now=0)
    patience.asked(0, 1)
    patience.done(0, 2)
    patience.heard(0, Pulse(), 3)
    assert patience.lapses(100) == {}


def test_who_cannot_tell_is_not_judged() -> None:
    patience = Patience([0], LIMITS, now=0)
    patience.asked(0, 1)
    patience.unable(0)
    assert patience.lapses(1000) == {}


@pytest.mark.parametrize("moving", [{"num_bytes": 1}, {"phase": "continuous"}])
def test_while_loading_bytes_and_phases_of_any_rank_are_progress_of_all(moving: dict[str, object]) -> None:
    patience = Patience([0, 1], limits_for("load", CONFIG, is_warm=False), now=0)
    waits, works = Rank(patience, 0), Rank(patience, 1)
    for now in (1, 60):
        waits.answers(now, phase="fetch")
        works.answers(now, **({"phase": "fetch"} | (moving if now == 60 else {})))
    assert not waits.answers(160, phase="fetch")
    works.answers(161, **({"phase": "fetch"} | moving))
    waits.answers(161, phase="fetch")
    assert list(patience.lapses(161)) == [0, 1]


def test_while_loading_a_rank_that_is_done_was_progress() -> None:
    patience = Patience([0, 1], limits_for("load", CONFIG, is_warm=False), now=0)
    rank = Rank(patience, 1)
    rank.answers(1, phase="fetch")
    patience.done(0, 90)
    assert not rank.answers(190, phase="fetch")
    assert rank.answers(191, phase="fetch")
