"""Gangs over two nodes with two fake GPUs each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ray.train import ScalingConfig

from raydsinfer.config import GangConfig
from raydsinfer.engines.base import Completion
from raydsinfer.errors import ClusterCapacityError, WorkerGroupError
from raydsinfer.groups.worker_group import WorkerGroup
from tests.clusters import assert_nothing_left, several_nodes

FOUR = ScalingConfig(num_workers=4, use_gpu=True)


@pytest.fixture(scope="module")
def two_by_two() -> Iterator[None]:
    with several_nodes(2, 2):
        yield
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


def test_more_ranks_than_gpus_says_how_many_there_are(two_by_two, echo_spec):
    with pytest.raises(ClusterCapacityError, match="idle nodes would hold 4 in all"):
        WorkerGroup.create(
            echo_spec(), ScalingConfig(num_workers=5, use_gpu=True), gang_config=GangConfig(placement_timeout_s=1.5)
        )
    packed = ScalingConfig(num_workers=3, use_gpu=True, placement_strategy="STRICT_PACK")
    with pytest.raises(ClusterCapacityError, match="idle nodes would hold 2 on one node"):
        WorkerGroup.create(echo_spec(), packed, gang_config=GangConfig(placement_timeout_s=1.5))
    assert_nothing_left()
