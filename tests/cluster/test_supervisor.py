"""Gangs that start again: on one node, real Ray, fake GPUs, the echo engine."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest
import ray
from ray.train import ScalingConfig

from raydsinfer.config import RecoveryConfig
from raydsinfer.engines.base import Completion
from raydsinfer.errors import ClusterCapacityError, EngineError, RestartsExhaustedError, WorkerGroupError
from raydsinfer.groups.keeper import start_keeper
from raydsinfer.groups.row_counts import RowCounts
from raydsinfer.groups.supervisor import GangSupervisor
from tests.clusters import left_of_gangs

pytestmark = pytest.mark.usefixtures("nothing_left")

ANSWERS = [[Completion(tuple(prompt), "stop")] for prompt in (b"hello", b"poison")]


@pytest.fixture
def supervise(echo_spec, quick) -> Iterator[Callable[..., GangSupervisor]]:
    """Make supervisors; they are shut down after the test."""
    made: list[GangSupervisor] = []

    def make(fault: dict[str, object] | None = None, *, ranks: int = 2, **options: object) -> GangSupervisor:
        recovery = RecoveryConfig(**{"restart_backoff_s": 0.1, **options.pop("recovery", {})})
        scaling = ScalingConfig(num_workers=ranks, use_gpu=True)
        made.append(
            GangSupervisor(echo_spec(**(fault or {})), scaling, gang_config=quick, recovery_config=recovery, **options)
        )
        return made[-1]

    yield make
    while made:  # pytest keeps this function, which keeps the list
        made.pop().shutdown()


def placement_groups() -> list[str]:
    return left_of_gangs()["placement groups"]


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_for(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def soon(action: Callable[[], object], after_s: float) -> Iterator[None]:
    timer = threading.Timer(after_s, action)
    timer.start()
    yield
    timer.join()


def start_child(worker: object) -> int:
    return subprocess.Popen(["/bin/sleep", "300"]).pid


def test_a_rank_killed_while_the_gang_is_idle_is_noticed_and_the_gang_comes_back_to_its_place(supervise, batch):
    told = []
    supervisor = supervise(on_progress=told.append)
    first = supervisor.start()
    pids, place = [rank.pid for rank in first.ranks], placement_groups()
    child = ray.get(first.actors[1].__ray_call__.remote(start_child))
    os.kill(pids[1], signal.SIGKILL)
    wait_for(lambda: supervisor.broken, timeout_s=5)
    assert (first.failure.phase, list(first.failure.causes)) == ("idle", [1])
    wait_for(lambda: not is_running(pids[0]), timeout_s=5)  # nobody called it, but its GPU is wanted

    second = supervisor.restart(first.failure)
    assert [pid for pid in (*pids, child) if is_running(pid)] == []
    assert second is supervisor.group is not first
    assert supervisor.restart(first.failure) is second  # somebody else noticed, too, and comes late
    assert placement_groups() == place
    assert [rank.gpu_ids for rank in second.ranks] == [rank.gpu_ids for rank in first.ranks]
    assert supervisor.run("generate", batch) == ANSWERS
    assert supervisor.num_restarts == 1
    assert any(line.startswith("restart 1 after idle: rank 1: its process ended") for line in told)
    (line,) = supervisor.history
    assert "UTC idle: rank 1: its process ended" in line
    assert "; back after " in line


def test_a_rank_killed_while_it_works_is_noticed_at_once_and_the_retry_is_answered(supervise, batch, tmp_path):
    once = tmp_path / "once"
    supervisor = supervise({"rank": 1, "action": "slow", "slow_s": 120.0, "once": str(once)})
    pid = supervisor.start().ranks[1].pid
    with soon(lambda: (wait_for(once.exists), os.kill(pid, signal.SIGKILL)), after_s=0.0):
        started = time.monotonic()
        with pytest.raises(WorkerGroupError) as caught:
            supervisor.run("generate", batch)
    assert time.monotonic() - started < 30
    assert list(caught.value.causes) == [1]
    supervisor.restart(caught.value)
    assert supervisor.run("generate", batch) == ANSWERS


def test_a_rank_that_exits_in_a_call_and_a_gang_in_step_that_is_ended_start_again(supervise, batch, tmp_path):
    supervisor = supervise({"rank": 1, "action": "exit", "once": str(tmp_path / "once")})
    supervisor.start()
    with pytest.raises(WorkerGroupError) as caught:
        supervisor.run("generate", batch)
    supervisor.restart(caught.value).shutdown()
    # As serving does with a gang that answers nothing any more though no process died.
    supervisor.restart(caught.value)
    assert supervisor.run("generate", batch) == ANSWERS
    assert supervisor.num_restarts == 2


def test_a_start_that_fails_once_is_tried_again(supervise, batch, tmp_path):
    supervisor = supervise({"rank": 1, "when": "load", "action": "exit", "once": str(tmp_path / "once")})
    supervisor.start()
    assert supervisor.run("generate", batch) == ANSWERS
    assert len(supervisor.history) == supervisor.num_restarts == 1
    assert "UTC load: rank 1: " in supervisor.history[0]


def test_what_an_engine_raises_at_each_start_ends_the_trying_with_its_own_error(supervise):
    supervisor = supervise({"when": "load", "action": "raise"}, ranks=1)
    with pytest.raises(WorkerGroupError) as caught:
        supervisor.start()
    assert isinstance(caught.value.causes[0], EngineError)
    assert supervisor.num_restarts == 2
    assert not any(left_of_gangs().values())
    with pytest.raises(WorkerGroupError, match="told to fail on rank 0"):
        supervisor.restart(caught.value)


def test_a_budget_that_is_used_up_ends_the_gang_with_its_history(supervise, batch):
    supervisor = supervise({"action": "kill"}, ranks=1, recovery={"max_restarts": 1})
    supervisor.start()
    with pytest.raises(WorkerGroupError) as caught:
        supervisor.run("generate", batch)
    supervisor.restart(caught.value)
    with pytest.raises(WorkerGroupError) as caught:
        supervisor.run("generate", batch)
    with pytest.raises(RestartsExhaustedError) as ended:
        supervisor.restart(caught.value)
    assert (ended.value.setting, ended.value.limit, len(ended.value.history)) == ("max_restarts", 1, 2)
    assert ended.value.__cause__ is caught.value
    assert not any(left_of_gangs().values())
    assert supervisor.broken
    with pytest.raises(RestartsExhaustedError):
        supervisor.restart(caught.value)


def test_gangs_of_a_job_share_its_budget_and_refunds_fill_it_again(supervise):
    keeper = start_keeper()
    first, second = (supervise(ranks=1, keeper=keeper, recovery={"max_job_restarts": 1}) for _ in range(2))
    error = WorkerGroupError(gang="g", phase="generate", causes={0: RuntimeError("a row killed it")})
    first.restart(error)
    first.refund(1)
    assert first.num_restarts == 1
    second.restart(error)
    first.group.shutdown()
    with pytest.raises(RestartsExhaustedError) as ended:
        first.restart(error)
    assert (ended.value.setting, ended.value.limit) == ("max_job_restarts", 1)
    assert not second.broken
    ray.get(keeper.count_rows.remote(64, 1, "length: too long"))
    assert ray.get(keeper.count_rows.remote(10, 0)) == RowCounts(num_rows=74, num_errors=1, example="length: too long")
    ray.get(keeper.begin.remote())  # another job
    assert ray.get(keeper.count_rows.remote(1, 0)) == RowCounts(num_rows=1)
    assert ray.get(keeper.take_restart.remote(1, 3600.0))


def test_shutdown_ends_a_restart_that_waits(supervise):
    told = []
    supervisor = supervise(
        {"when": "load", "action": "exit"}, ranks=1, recovery={"restart_backoff_s": 60.0}, on_progress=told.append
    )
    with soon(
        lambda: (wait_for(lambda: any("waiting 60 s" in line for line in told)), supervisor.shutdown()), after_s=0.0
    ):
        with pytest.raises(WorkerGroupError, match="the gang was shut down"):
            supervisor.start()
        ended = time.monotonic()
    assert time.monotonic() - ended < 5
    assert not any(left_of_gangs().values())


def test_shutdown_ends_a_start_that_hangs(supervise):
    told = []
    supervisor = supervise({"rank": 1, "when": "load", "action": "hang"}, on_progress=told.append)
    started = time.monotonic()
    with (
        soon(lambda: (wait_for(lambda: "loading" in str(told)), supervisor.shutdown()), after_s=0.2),
        pytest.raises(WorkerGroupError, match="the gang was shut down"),
    ):
        supervisor.start()
    assert time.monotonic() - started < 20
    assert not any(left_of_gangs().values())


def test_shutdown_ends_the_waiting_for_a_place(supervise):
    supervisor = supervise(ranks=5)
    with soon(supervisor.shutdown, after_s=0.5), pytest.raises(WorkerGroupError, match="the gang was shut down"):
        supervisor.start()
    assert placement_groups() == []


def test_a_supervisor_that_is_forgotten_gives_everything_back(echo_spec, quick):
    supervisor = GangSupervisor(echo_spec(), ScalingConfig(num_workers=1), gang_config=quick)
    supervisor.start()
    del supervisor
    gc.collect()
    wait_for(lambda: not any(left_of_gangs().values()))


def test_a_gang_that_finds_no_room_is_not_tried_again(echo_spec, quick):
    config = quick.replaced({"placement_timeout_s": 0.5})
    supervisor = GangSupervisor(echo_spec(), ScalingConfig(num_workers=5, use_gpu=True), gang_config=config)
    with pytest.raises(ClusterCapacityError):
        supervisor.start()
    assert supervisor.num_restarts == 0
    assert placement_groups() == []
