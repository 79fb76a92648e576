"""Leases of placement groups: kept while the holder lives, ended when it does not."""

from __future__ import annotations

import gc
import os
import signal
import time
import uuid

import pytest
import ray
from ray.train import ScalingConfig

from raydsinfer.config import GangConfig
from raydsinfer.errors import WorkerGroupError
from raydsinfer.groups.keeper import start_keeper
from raydsinfer.groups.lease import Lease
from raydsinfer.groups.placement import GangRequest, placement_group_state
from raydsinfer.groups.worker_group import WorkerGroup
from tests.clusters import left_of_gangs

pytestmark = pytest.mark.usefixtures("nothing_left")

GPUS = ScalingConfig(num_workers=2, use_gpu=True)
TTL_S = 2.0


@pytest.fixture
def config() -> GangConfig:
    return GangConfig(placement_timeout_s=60, start_timeout_s=60, call_timeout_s=60, lease_ttl_s=TTL_S)


@ray.remote(num_cpus=0)
class Holder:
    """Stands for a predictor actor: it owns a gang whose placement group the keeper made."""

    def start(self, keeper, spec, config):
        self.group = WorkerGroup.create(spec, GPUS, gang_config=config, keeper=keeper)
        return os.getpid(), [rank.pid for rank in self.group.ranks]

    def run(self, batch):
        return self.group.run("generate", batch)


def wait_for(condition, timeout_s: float) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_s, left_of_gangs()
        time.sleep(0.05)
    return time.monotonic() - started


def test_a_leased_gang_outlives_its_ttl_and_gives_everything_back(echo_spec, batch, config):
    keeper = start_keeper()
    with WorkerGroup.create(echo_spec(), GPUS, gang_config=config, keeper=keeper) as group:
        answers = group.run("generate", batch)
        time.sleep(2 * TTL_S)
        assert group.run("generate", batch) == answers
        assert ray.get(keeper.num_leases.remote()) == 1
    assert ray.get(keeper.num_leases.remote()) == 0
    assert left_of_gangs()["placement groups"] == []


def test_a_start_that_fails_ends_its_lease(echo_spec, config):
    keeper = start_keeper()
    with pytest.raises(WorkerGroupError, match="told to fail"):
        WorkerGroup.create(echo_spec(rank=1, when="load", action="raise"), GPUS, gang_config=config, keeper=keeper)
    assert ray.get(keeper.num_leases.remote()) == 0


@pytest.mark.parametrize("busy", [False, True])
def test_the_gang_of_a_holder_that_was_killed_is_gone_after_the_ttl(busy, echo_spec, batch, config):
    keeper = start_keeper()
    holder = Holder.remote()
    spec = echo_spec(rank=0, action="hang") if busy else echo_spec()
    pid, rank_pids = ray.get(holder.start.remote(keeper, spec, config))
    call = holder.run.remote(batch)
    if busy:
        time.sleep(0.5)
    else:
        ray.get(call)
    os.kill(pid, signal.SIGKILL)
    # Ray ends the rank processes with their owner; the placement group goes when the lease ends.
    wait_for(lambda: not any(alive(rank_pid) for rank_pid in rank_pids), timeout_s=10)
    wait_for(lambda: left_of_gangs()["placement groups"] == [], timeout_s=TTL_S + 5)
    assert ray.get(keeper.num_leases.remote()) == 0


def test_a_holder_that_slept_too_long_is_told_that_its_gang_is_gone(echo_spec, batch, config):
    keeper = start_keeper()
    holder = Holder.remote()
    pid, _ = ray.get(holder.start.remote(keeper, echo_spec(), config))
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: left_of_gangs()["placement groups"] == [], timeout_s=TTL_S + 5)
    finally:
        os.kill(pid, signal.SIGCONT)
    with pytest.raises(WorkerGroupError, match="its placement group was removed"):
        ray.get(holder.run.remote(batch))


def test_a_keeper_that_nobody_knows_any_more_lives_until_its_last_lease_ends():
    keeper = start_keeper()
    group = ray.get(keeper.lease.remote("token", request(), TTL_S, keeper))
    del keeper
    gc.collect()
    time.sleep(TTL_S / 2)
    assert "GangKeeper ALIVE" in left_of_gangs()["actors"]
    assert placement_group_state(group) != "REMOVED"
    wait_for(lambda: placement_group_state(group) == "REMOVED", timeout_s=TTL_S + 3)
    wait_for(lambda: not any(left_of_gangs().values()), timeout_s=20)


def test_a_lease_that_was_not_renewed_ends_and_cannot_be_renewed():
    keeper = start_keeper()
    token = uuid.uuid4().hex
    group = ray.get(keeper.lease.remote(token, request(), 0.5, keeper))
    assert ray.get(keeper.renew.remote(token)) is True
    wait_for(lambda: placement_group_state(group) == "REMOVED", timeout_s=5)
    assert ray.get(keeper.renew.remote(token)) is False
    ray.get(keeper.release.remote(token))


def test_the_end_of_a_job_ends_leases_that_are_still_renewed_and_refuses_new_ones(echo_spec, config):
    keeper = start_keeper()
    ray.get(keeper.begin.remote())
    lease = Lease(keeper, request(), ttl_s=60)
    wait_for(lambda: ray.get(keeper.num_placed.remote()) == 1, timeout_s=10)
    ray.get(keeper.end.remote(grace_s=0.5))
    with pytest.raises(WorkerGroupError, match="the job that wanted this gang is over"):
        WorkerGroup.create(echo_spec(), GPUS, gang_config=config, keeper=keeper)
    wait_for(lambda: placement_group_state(lease.group) == "REMOVED", timeout_s=5)
    ray.get(keeper.begin.remote())
    with WorkerGroup.create(echo_spec(), GPUS, gang_config=config, keeper=keeper):
        assert ray.get(keeper.num_leases.remote()) == 1
    lease.close()


def test_leases_of_several_holders_do_not_touch_each_other():
    keeper = start_keeper()
    first, second = Lease(keeper, request(), ttl_s=TTL_S), Lease(keeper, request(), ttl_s=TTL_S)
    first.close()
    first.close()
    assert placement_group_state(first.group) == "REMOVED"
    assert placement_group_state(second.group) != "REMOVED"
    second.close()


def test_without_its_keeper_a_gang_works_on_and_cleans_up_itself(echo_spec, batch, config):
    keeper = start_keeper()
    with WorkerGroup.create(echo_spec(), GPUS, gang_config=config, keeper=keeper) as group:
        ray.kill(keeper)
        time.sleep(TTL_S)
        assert len(group.run("generate", batch)) == 2
    assert left_of_gangs()["placement groups"] == []


def test_a_dead_keeper_is_an_error_and_not_a_wait(echo_spec, config):
    keeper = start_keeper()
    ray.kill(keeper)
    started = time.monotonic()
    with pytest.raises(WorkerGroupError) as caught:
        WorkerGroup.create(echo_spec(), GPUS, gang_config=config, keeper=keeper)
    assert caught.value.phase == "placement"
    assert time.monotonic() - started < 10


def request() -> GangRequest:
    return GangRequest(gang="g", num_ranks=1, bundle={"GPU": 1})


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
