"""Lives of a gang: one restart for all who notice, refunds once, and one end for all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from raydsinfer.errors import RestartsExhaustedError, WorkerGroupError
from raydsinfer.serving.gang import Gang
from raydsinfer.serving.lives import Lives
from raydsinfer.serving.service import Service, make_service
from tests.gangs import InProcessSupervisor

ERROR = WorkerGroupError(gang="gang-test", phase="generate", causes={0: RuntimeError("died")})


def lives_of(supervisor: InProcessSupervisor) -> Lives:
    def make(gang: Gang) -> Service:
        return make_service(gang, supervisor.group.config, lambda way: None)

    return Lives(supervisor, make)


def test_many_who_notice_begin_one_life() -> None:
    supervisor = InProcessSupervisor()
    lives = lives_of(supervisor)
    over = lives.present()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: lives.end(over, ERROR), range(8)))
    assert supervisor.num_restarts == 1
    assert (lives.present().number, lives.present().gang) == (1, supervisor.group)
    assert over.gang.broken  # also if it was not: it is over


def test_a_life_is_refunded_once() -> None:
    supervisor = InProcessSupervisor()
    lives = lives_of(supervisor)
    for _ in range(3):
        lives.end(lives.present(), ERROR)
    lives.refund([0, 1])
    lives.refund([1, 0])
    assert supervisor.num_refunded == 2
    lives.refund([1, 2])
    assert supervisor.num_refunded == 3


def test_what_is_owed_is_refunded_once_the_gang_answers() -> None:
    supervisor = InProcessSupervisor()
    lives = lives_of(supervisor)
    for _ in range(3):
        lives.end(lives.present(), ERROR)
    for number in (0, 1, 1):
        lives.refund_if_answers(number)
    assert supervisor.num_refunded == 0
    lives.answered(lives.present())
    assert supervisor.num_refunded == 2
    for number in (1, 2):
        lives.refund_if_answers(number)
    assert supervisor.num_refunded == 3


def test_the_last_failure_is_everybodys() -> None:
    lives = lives_of(InProcessSupervisor(max_restarts=1))
    lives.end(lives.present(), ERROR)
    last = lives.present()
    errors = []
    for ask in (lambda: lives.end(last, ERROR), lambda: lives.end(last, ERROR), lives.present):
        with pytest.raises(RestartsExhaustedError) as caught:
            ask()
        errors.append(caught.value)
    assert len({id(error) for error in errors}) == 3


def test_after_shutdown_nothing_begins() -> None:
    supervisor = InProcessSupervisor()
    lives = lives_of(supervisor)
    lives.shutdown()
    lives.shutdown()
    with pytest.raises(WorkerGroupError, match="died"):
        lives.end(lives.present(), ERROR)
    assert supervisor.num_restarts == 0


def test_the_first_answer_of_a_life_is_told() -> None:
    supervisor = InProcessSupervisor()
    lives = lives_of(supervisor)
    for _ in range(3):
        lives.answered(lives.present())
    assert supervisor.num_answered == 1
