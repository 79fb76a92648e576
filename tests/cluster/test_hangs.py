"""Ranks that are stuck, silent or just slow. Real Ray, the echo engine."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import time

import pytest
import ray
from ray.train import ScalingConfig

from raydsinfer.config import EngineConfig, GangConfig
from raydsinfer.engines.base import Completion, EngineSpec
from raydsinfer.errors import RankTimeoutError, WorkerGroupError
from raydsinfer.groups.worker_group import WorkerGroup
from tests.clusters import assert_nothing_left, left_of_gangs

pytestmark = pytest.mark.usefixtures("nothing_left")

TWO = ScalingConfig(num_workers=2)
LIMIT_S, SLACK_S = 3.0, 5.0


@pytest.fixture
def strict() -> GangConfig:
    """Short deadlines for steps and heartbeats, long ones for all else."""
    return GangConfig(
        placement_timeout_s=60,
        start_timeout_s=60,
        call_timeout_s=60,
        first_step_timeout_s=LIMIT_S,
        step_timeout_s=LIMIT_S,
        heartbeat_timeout_s=LIMIT_S,
    )


def failed(group: WorkerGroup, batch: object, *, limit_s: float = LIMIT_S) -> WorkerGroupError:
    """What a call raises, which it does within its limit and some seconds."""
    started = time.monotonic()
    with pytest.raises(WorkerGroupError) as caught:
        group.run("generate", batch)
    assert limit_s <= time.monotonic() - started < limit_s + SLACK_S
    assert group.broken
    return caught.value


def test_a_rank_that_is_stuck_is_found_and_one_that_is_slow_is_left_alone(echo_spec, batch, strict, caplog):
    fault = echo_spec(rank=1, action="hang", prompt_contains="poison").config.echo_fault
    spec = EngineSpec(model="m", config=EngineConfig(engine="echo", echo_fault=fault, echo_delay_s=2.5 * LIMIT_S))
    with WorkerGroup.create(spec, TWO, gang_config=strict) as group:
        good = type(batch)(prompts=batch.prompts[:1], generation=batch.generation)
        started = time.monotonic()
        assert group.run("generate", good) == [[Completion(tuple(b"hello"), "stop")]]
        assert time.monotonic() - started > 2 * LIMIT_S

        with caplog.at_level(logging.WARNING, logger="raydsinfer"):
            error = failed(group, batch)
    assert list(error.causes) == [1]
    cause = error.causes[1]
    assert isinstance(cause, RankTimeoutError)
    assert "did not get on with generate within 3 s (it was in: " in str(cause)
    assert "_misbehave" in cause.stack
    assert sorted(error.stacks) == [0, 1]
    assert "_misbehave" in error.stacks[1]
    assert "meanwhile rank 0: " in str(error)
    assert "_pass_time" in str(error)
    assert error.stacks[1] in caplog.text
    assert_nothing_left(timeout_s=5)


def hold_the_lock(worker: object) -> None:
    """Make the engine of a worker spend its next call in C, with Python's lock."""
    worker._engine.generate = lambda batch: ctypes.PyDLL(None).sleep(60)


def test_a_rank_that_holds_pythons_lock_is_silent_and_its_stack_is_read_all_the_same(echo_spec, batch, strict):
    with WorkerGroup.create(echo_spec(), TWO, gang_config=strict) as group:
        ray.get(group._team.actors[1].__ray_call__.remote(hold_the_lock))
        error = failed(group, batch)
    assert list(error.causes) == [1]
    assert "gave no sign of life within 3 s" in str(error)
    assert "<lambda>" in error.causes[1].stack
    assert error.stacks[1].startswith("engine thread:\n")


def test_a_rank_that_was_stopped_is_silent_and_told_to_be_stopped(echo_spec, batch, strict):
    spec = EngineSpec(model="m", config=EngineConfig(engine="echo", echo_delay_s=50))
    with WorkerGroup.create(spec, TWO, gang_config=strict) as group:
        os.kill(group.ranks[1].pid, signal.SIGSTOP)
        error = failed(group, batch)
        assert list(error.causes) == [1]
        assert "is stopped (SIGSTOP)" in error.causes[1].stack
        assert "_pass_time" in error.stacks[0]
    assert_nothing_left(timeout_s=5)


def test_a_rank_that_is_stuck_while_it_loads_is_found(echo_spec, strict):
    started = time.monotonic()
    with pytest.raises(WorkerGroupError) as caught:
        WorkerGroup.create(echo_spec(rank=1, when="load", action="hang"), TWO, gang_config=strict)
    assert time.monotonic() - started < 30
    error = caught.value
    assert error.phase == "load"
    assert list(error.causes) == [1]
    assert "did not get on with load within 3 s" in str(error)
    assert "_misbehave" in error.causes[1].stack
    assert not any(left_of_gangs().values())
