"""Gangs on one node: start, call, failure, end. Real Ray, fake GPUs, the echo engine."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
import ray
from ray.train import ScalingConfig

from raydsinfer.config import GangConfig
from raydsinfer.engines.base import Completion
from raydsinfer.errors import (
    ClusterCapacityError,
    EngineError,
    InvalidSettingError,
    RankDiedError,
    RankTimeoutError,
    WorkerGroupError,
)
from raydsinfer.groups.worker_group import WorkerGroup
from tests.clusters import assert_nothing_left, left_of_gangs

pytestmark = pytest.mark.usefixtures("nothing_left")

GPUS = ScalingConfig(num_workers=2, use_gpu=True)
CPUS = ScalingConfig(num_workers=2)


def test_a_gang_starts_answers_and_ends(echo_spec, batch, quick):
    told = []
    with WorkerGroup.create(echo_spec(), GPUS, gang_config=quick, on_progress=told.append) as group:
        assert [(rank.world_rank, rank.local_rank, rank.gpu_ids) for rank in group.ranks] == [
            (0, 0, ("0",)),
            (1, 1, ("1",)),
        ]
        assert group.load_report.mode == "echo"
        assert list(group.start_phases_s) == ["placement", "actors", "rendezvous", "load"]
        answers = group.run("generate", batch)
        assert answers == [[Completion(tuple(prompt), "stop")] for prompt in batch.prompts]
        assert group.run("generate", batch=batch) == answers
        assert len(left_of_gangs()["processes"]) == 2
    assert any("2 ranks on 1 node" in line for line in told)
    assert_nothing_left(timeout_s=5)


def test_shutdown_twice_and_calls_after_it(echo_spec, batch, quick):
    group = WorkerGroup.create(echo_spec(), CPUS, gang_config=quick)
    group.shutdown()
    group.shutdown()
    assert group.broken
    with pytest.raises(WorkerGroupError, match=r"was shut down; make a new one with WorkerGroup\.create"):
        group.run("generate", batch)


def is_running(pid: int) -> bool:
    try:
        # A zombie holds nothing: it waits for Ray to read its exit code, which a busy machine delays.
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_after_shutdown_the_processes_are_gone_at_once(echo_spec, quick):
    group = WorkerGroup.create(echo_spec(), CPUS, gang_config=quick)
    group.shutdown()
    assert [rank.pid for rank in group.ranks if is_running(rank.pid)] == []
    assert left_of_gangs()["placement groups"] == []


def test_gangs_on_one_node_use_different_gpus(echo_spec, batch, quick):
    with (
        WorkerGroup.create(echo_spec(), GPUS, gang_config=quick) as first,
        WorkerGroup.create(echo_spec(), GPUS, gang_config=quick) as second,
    ):
        gpus = [gpu for group in (first, second) for rank in group.ranks for gpu in rank.gpu_ids]
        assert sorted(gpus) == ["0", "1", "2", "3"]
        assert first.run("generate", batch) == second.run("generate", batch)


def test_ranks_know_where_they_stand_before_their_engine_is_imported(echo_spec, quick):
    with WorkerGroup.create(echo_spec(), GPUS, gang_config=quick) as gpu_group:
        assert environments(gpu_group) == [
            {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": "0"},
            {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": "1"},
        ]
    with WorkerGroup.create(echo_spec(), CPUS, gang_config=quick) as cpu_group:
        found = environments(cpu_group)
        assert [(rank["LOCAL_RANK"], rank["CUDA_VISIBLE_DEVICES"]) for rank in found] == [("0", ""), ("1", "")]


def environments(group: WorkerGroup) -> list[dict[str, str]]:
    """What each rank's process has in its environment now (`/proc` only shows what it started with)."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "CUDA_VISIBLE_DEVICES")

    def read(worker: object) -> dict[str, str]:
        return {name: os.environ[name] for name in names if name in os.environ}

    return ray.get([actor.__ray_call__.remote(read) for actor in group._team._actors])


def test_the_engine_always_runs_on_one_thread_and_another_answers_meanwhile(echo_spec, quick):
    with WorkerGroup.create(echo_spec(), CPUS, gang_config=quick) as group:
        actor = group._team._actors[0]

        def thread(worker: object, pause_s: float = 0.0) -> int:
            time.sleep(pause_s)
            return threading.get_ident()

        engine_thread = ray.get(actor.__ray_call__.remote(lambda worker: worker._engine_thread))
        assert set(ray.get([actor.__ray_call__.remote(thread) for _ in range(20)])) == {engine_thread}
        busy = actor.__ray_call__.remote(thread, 3.0)
        deadline = time.monotonic() + 2.0  # the call needs a moment to reach the process
        while "thread (" not in (stack := ray.get(actor.stacks.remote(), timeout=1.0).innermost):
            assert time.monotonic() < deadline, stack
        assert ray.get(busy) == engine_thread


def test_calls_from_several_threads_take_turns(echo_spec, batch, quick):
    with WorkerGroup.create(echo_spec(), CPUS, gang_config=quick) as group:
        answers: list[object] = []
        threads = [threading.Thread(target=lambda: answers.append(group.run("generate", batch))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [group.run("generate", batch)] * 4


@pytest.mark.parametrize("action", ["raise", "exit", "kill"])
def test_a_rank_that_fails_in_a_call_fails_the_call_with_its_cause(action, echo_spec, batch, quick):
    spec = echo_spec(rank=1, action=action, prompt_contains="poison")
    with WorkerGroup.create(spec, CPUS, gang_config=quick) as group:
        started = time.monotonic()
        with pytest.raises(WorkerGroupError) as caught:
            group.run("generate", batch)
        assert time.monotonic() - started < 5
        error = caught.value
        assert (error.gang, error.phase, list(error.causes)) == (group.name, "generate", [1])
        expected, told = (EngineError, "told to fail on rank 1") if action == "raise" else (RankDiedError, "SIGKILL by")
        assert isinstance(error.causes[1], expected)
        assert told in str(error)
        assert group.broken
        with pytest.raises(WorkerGroupError, match="failed earlier"):
            group.run("generate", batch)


def test_a_failure_does_not_wait_for_ranks_that_are_busy(echo_spec, batch, quick):
    spec = echo_spec(rank=1, action="raise")
    slow = type(spec)(model=spec.model, config=spec.config.replaced({"echo_delay_s": 50.0}))
    with WorkerGroup.create(slow, CPUS, gang_config=quick) as group:
        started = time.monotonic()
        with pytest.raises(WorkerGroupError) as caught:
            group.run("generate", batch)
        assert time.monotonic() - started < 5
        assert list(caught.value.causes) == [1]
        group.shutdown()
        assert time.monotonic() - started < 10


def test_a_rank_that_hangs_is_named_at_the_deadline_with_what_it_does(echo_spec, batch):
    config = GangConfig(placement_timeout_s=60, start_timeout_s=60, call_timeout_s=2)
    with WorkerGroup.create(echo_spec(rank=1, action="hang"), CPUS, gang_config=config) as group:
        started = time.monotonic()
        with pytest.raises(WorkerGroupError) as caught:
            group.run("generate", batch)
        assert time.monotonic() - started < 7
        cause = caught.value.causes[1]
        assert list(caught.value.causes) == [1]
        assert isinstance(cause, RankTimeoutError)
        assert cause.timeout_s == 2
        assert "_misbehave" in cause.stack
    assert_nothing_left(timeout_s=5)


def test_a_gang_of_one_that_raises_stays_usable(echo_spec, batch, quick):
    spec = echo_spec(rank=0, action="raise", prompt_contains="poison")
    with WorkerGroup.create(spec, ScalingConfig(num_workers=1), gang_config=quick) as group:
        with pytest.raises(WorkerGroupError, match="told to fail on rank 0"):
            group.run("generate", batch)
        assert not group.broken
        good = type(batch)(prompts=batch.prompts[:1], generation=batch.generation)
        assert group.run("generate", good) == [[Completion(tuple(b"hello"), "stop")]]


@pytest.mark.parametrize("action", ["raise", "exit", "hang"])
def test_a_start_that_fails_on_rank_1_leaves_nothing(action, echo_spec):
    config = GangConfig(placement_timeout_s=60, start_timeout_s=8 if action == "hang" else 60)
    started = time.monotonic()
    with pytest.raises(WorkerGroupError) as caught:
        WorkerGroup.create(echo_spec(rank=1, when="load", action=action), GPUS, gang_config=config)
    assert time.monotonic() - started < 20
    assert caught.value.phase == "load"
    assert list(caught.value.causes) == [1]
    assert not any(left_of_gangs().values())


def test_a_gang_that_fits_nowhere_fails_by_its_deadline_with_the_reason(echo_spec):
    told = []
    huge = ScalingConfig(num_workers=1, use_gpu=True, resources_per_worker={"CPU": 64})
    started = time.monotonic()
    config = GangConfig(placement_timeout_s=2)
    with pytest.raises(ClusterCapacityError) as caught:
        WorkerGroup.create(echo_spec(), huge, gang_config=config, on_progress=told.append)
    assert 2 <= time.monotonic() - started < 6
    assert caught.value.unplaceable == (0,)
    assert "no node can hold the bundle {'CPU': 64.0, 'GPU': 1.0} of rank 0" in str(caught.value)
    assert "of 4 GPU" in caught.value.nodes[0]
    assert any("no node can hold" in line for line in told)


def test_a_gang_that_waits_for_others_says_so(echo_spec, quick):
    with WorkerGroup.create(echo_spec(), ScalingConfig(num_workers=3, use_gpu=True), gang_config=quick):
        with pytest.raises(ClusterCapacityError) as caught:
            WorkerGroup.create(echo_spec(), GPUS, gang_config=GangConfig(placement_timeout_s=0.5))
        assert "1 of 4 GPU" in caught.value.nodes[0]
        assert "wait for others to finish" in str(caught.value)


def test_wrong_settings_start_nothing(echo_spec):
    with pytest.raises(InvalidSettingError, match="num_workers=0"):
        WorkerGroup.create(echo_spec(), ScalingConfig(num_workers=0))


def test_an_interrupt_in_a_call_ends_the_gang(echo_spec, batch, quick):
    with WorkerGroup.create(echo_spec(rank=1, action="hang"), CPUS, gang_config=quick) as group:
        timer = threading.Timer(1.0, signal.raise_signal, [signal.SIGINT])
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            group.run("generate", batch)
        timer.join()
        with pytest.raises(WorkerGroupError, match="interrupted by the caller"):
            group.run("generate", batch)


def test_an_interrupt_in_a_start_leaves_nothing(echo_spec, quick):
    def interrupt(line: str) -> None:
        if line.startswith("loading"):
            threading.Timer(1.0, os.kill, [os.getpid(), signal.SIGINT]).start()

    with pytest.raises(KeyboardInterrupt):
        WorkerGroup.create(
            echo_spec(rank=1, when="load", action="hang"), CPUS, gang_config=quick, on_progress=interrupt
        )
    assert not any(left_of_gangs().values())


def test_a_group_that_is_forgotten_gives_everything_back(echo_spec, quick):
    group = WorkerGroup.create(echo_spec(), GPUS, gang_config=quick)
    assert any(left_of_gangs().values())
    del group
    gc.collect()
    assert_nothing_left()


def test_shutdown_from_another_thread_ends_a_call(echo_spec, batch, quick):
    group = WorkerGroup.create(echo_spec(rank=0, action="hang"), CPUS, gang_config=quick)
    threading.Timer(1.0, group.shutdown).start()
    with pytest.raises(WorkerGroupError):
        group.run("generate", batch)


DRIVER = """
import sys, time
import ray
from ray.train import ScalingConfig
from raydsinfer.config import EchoFault, EngineConfig
from raydsinfer.engines.base import EngineSpec
from raydsinfer.groups.worker_group import WorkerGroup
ray.init(address=sys.argv[1], logging_level="ERROR")
spec = EngineSpec(model="m", config=EngineConfig(engine="echo"))
group = WorkerGroup.create(spec, ScalingConfig(num_workers=2, use_gpu=True))
print(*(rank.pid for rank in group.ranks), flush=True)
time.sleep(600)
"""


def test_the_ranks_of_a_driver_that_was_killed_die_with_it():
    address = ray.get_runtime_context().gcs_address
    with subprocess.Popen([sys.executable, "-c", DRIVER, address], stdout=subprocess.PIPE, text=True) as driver:
        pids = [int(pid) for pid in driver.stdout.readline().split()]
        assert len(pids) == 2
        driver.kill()
    assert_nothing_left()
