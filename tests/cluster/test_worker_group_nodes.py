"""Gangs over two nodes with two fake GPUs each."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.train import ScalingConfig

from raydsinfer.config import GangConfig, RecoveryConfig
from raydsinfer.engines.base import Completion
from raydsinfer.errors import ClusterCapacityError, WorkerGroupError
from raydsinfer.groups.keeper import start_keeper
from raydsinfer.groups.supervisor import GangSupervisor
from raydsinfer.groups.worker_group import WorkerGroup
from tests.clusters import OBJECT_STORE_BYTES, assert_nothing_left, left_of_gangs, several_nodes

FOUR = ScalingConfig(num_workers=4, use_gpu=True)


@pytest.fixture(scope="module")
def two_by_two() -> Iterator[Cluster]:
    with several_nodes(2, 2) as cluster:
        yield cluster
        assert_nothing_left()


def places(group: WorkerGroup) -> list[tuple[int, int, int, tuple[str, ...]]]:
    return [(rank.node_rank, rank.local_rank, rank.local_world_size, rank.gpu_ids) for rank in group.ranks]


def test_a_gang_over_two_nodes_with_two_gpus_each(two_by_two, echo_spec, batch, quick):
    with WorkerGroup.create(echo_spec(), FOUR, gang_config=quick) as group:
        assert places(group) == [
            (0, 0, 2, ("0",)),
            (0, 1, 2, ("1",)),
            (1, 0, 2, ("0",)),
            (1, 1, 2, ("1",)),
        ]
        nodes = [rank.node_id for rank in group.ranks]
        assert nodes[0] == nodes[1] != nodes[2] == nodes[3]
        assert group.run("generate", batch) == [[Completion(tuple(prompt), "stop")] for prompt in batch.prompts]
    assert_nothing_left()


def test_two_gangs_on_two_nodes_do_not_share_a_gpu(two_by_two, echo_spec, batch, quick):
    spread = ScalingConfig(num_workers=2, use_gpu=True, placement_strategy="STRICT_SPREAD")
    with (
        WorkerGroup.create(echo_spec(), spread, gang_config=quick) as first,
        WorkerGroup.create(echo_spec(), spread, gang_config=quick) as second,
    ):
        assert [rank.local_rank for rank in first.ranks] == [0, 0]
        taken = [(rank.node_id, rank.gpu_ids) for group in (first, second) for rank in group.ranks]
        assert len(set(taken)) == 4
        assert first.run("generate", batch) == second.run("generate", batch)
    assert_nothing_left()


def test_a_rank_that_dies_on_the_other_node_is_named(two_by_two, echo_spec, batch, quick):
    with WorkerGroup.create(echo_spec(rank=3, action="kill"), FOUR, gang_config=quick) as group:
        with pytest.raises(WorkerGroupError) as caught:
            group.run("generate", batch)
        assert list(caught.value.causes) == [3]
        assert f"process {group.ranks[3].pid}" in str(caught.value)
    assert_nothing_left()


def hold_the_lock(worker: object) -> None:
    """Make the engine of a worker spend its next call in C, with Python's lock."""
    worker._engine.generate = lambda batch: [ctypes.PyDLL(None).sleep(60) for _ in range(9)]


def test_a_silent_rank_on_the_other_node_is_read_by_its_neighbour(two_by_two, echo_spec, batch, quick):
    strict = quick.replaced({"heartbeat_timeout_s": 3.0})
    with WorkerGroup.create(echo_spec(), FOUR, gang_config=strict) as group:
        here = ray.get_runtime_context().get_node_id()
        other = next(rank.world_rank for rank in group.ranks if rank.node_id != here)
        ray.get(group._team.actors[other].__ray_call__.remote(hold_the_lock))
        with pytest.raises(WorkerGroupError) as caught:
            group.run("generate", batch)
        assert list(caught.value.causes) == [other]
        assert "<lambda>" in caught.value.causes[other].stack
    assert_nothing_left()


def test_more_ranks_than_gpus_says_how_many_there_are(two_by_two, echo_spec):
    with pytest.raises(ClusterCapacityError, match="idle nodes would hold 4 in all"):
        WorkerGroup.create(
            echo_spec(), ScalingConfig(num_workers=5, use_gpu=True), gang_config=GangConfig(placement_timeout_s=1.5)
        )
    packed = ScalingConfig(num_workers=3, use_gpu=True, placement_strategy="STRICT_PACK")
    with pytest.raises(ClusterCapacityError, match="idle nodes would hold 2 on one node"):
        WorkerGroup.create(echo_spec(), packed, gang_config=GangConfig(placement_timeout_s=1.5))
    assert_nothing_left()


def test_keepers_live_on_the_node_of_their_driver(two_by_two):
    """So that losing another node does not cost the gangs of all of them."""
    keepers = [start_keeper() for _ in range(4)]
    ray.get([keeper.num_leases.remote() for keeper in keepers])
    actors = ray._private.state.actors().values()
    nodes = [a["Address"]["NodeID"] for a in actors if a["ActorClassName"] == "GangKeeper" and a["State"] == "ALIVE"]
    assert nodes == [ray.get_runtime_context().get_node_id()] * 4


def test_a_gang_comes_back_to_its_nodes_and_to_another_when_one_is_lost(two_by_two, echo_spec, batch, quick):
    recovery = RecoveryConfig(restart_backoff_s=0)
    with GangSupervisor(echo_spec(), FOUR, gang_config=quick, recovery_config=recovery) as supervisor:
        answers = supervisor.start().run("generate", batch)
        nodes, place = [rank.node_id for rank in supervisor.group.ranks], left_of_gangs()["placement groups"]
        lost = next(node for node in two_by_two.worker_nodes if node.node_id in nodes)

        os.kill(supervisor.group.ranks[nodes.index(lost.node_id)].pid, signal.SIGKILL)
        with pytest.raises(WorkerGroupError) as caught:
            supervisor.run("generate", batch)
        supervisor.restart(caught.value)
        assert [rank.node_id for rank in supervisor.group.ranks] == nodes
        assert left_of_gangs()["placement groups"] == place
        assert supervisor.run("generate", batch) == answers

        two_by_two.add_node(num_cpus=2, num_gpus=2, object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False)
        two_by_two.remove_node(lost)
        deadline = time.monotonic() + 30
        while not supervisor.broken:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        supervisor.restart(supervisor.group.failure)
        assert lost.node_id not in [rank.node_id for rank in supervisor.group.ranks]
        assert supervisor.run("generate", batch) == answers
        assert ["idle:" in line for line in supervisor.history] == [False, True]
    assert_nothing_left()
