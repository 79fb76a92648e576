"""Gangs on clusters of other shapes, each made for one test."""

from __future__ import annotations

import ray
from ray.train import ScalingConfig

from raydsinfer.engines.base import Completion
from raydsinfer.groups.worker_group import WorkerGroup
from tests.clusters import assert_nothing_left, several_nodes

FOUR = ScalingConfig(num_workers=4, use_gpu=True)


def places(group: WorkerGroup) -> list[tuple[int, int, int, tuple[str, ...]]]:
    return [(rank.node_rank, rank.local_rank, rank.local_world_size, rank.gpu_ids) for rank in group.ranks]


def test_a_gang_over_four_nodes_with_one_gpu_each(echo_spec, batch, quick):
    with several_nodes(1, 1, 1, 1):
        with WorkerGroup.create(echo_spec(), FOUR, gang_config=quick) as group:
            assert places(group) == [(node, 0, 1, ("0",)) for node in range(4)]
            assert len({rank.node_id for rank in group.ranks}) == 4
            assert group.run("generate", batch) == [[Completion(tuple(prompt), "stop")] for prompt in batch.prompts]
        assert_nothing_left()


def test_twelve_gpus_on_one_node_get_ranks_in_numeric_order(echo_spec, batch, quick):
    with several_nodes(12):
        with WorkerGroup.create(echo_spec(), ScalingConfig(num_workers=12, use_gpu=True), gang_config=quick) as group:
            assert places(group) == [(0, gpu, 12, (str(gpu),)) for gpu in range(12)]
            assert group.run("generate", batch) == [[Completion(tuple(prompt), "stop")] for prompt in batch.prompts]
        assert_nothing_left()


def test_a_node_that_comes_late_is_used(echo_spec, batch, quick):
    with several_nodes(1) as cluster:
        told = []

        def add_node(line: str) -> None:
            told.append(line)
            if line.startswith("waiting for placement"):
                cluster.add_node(num_cpus=1, num_gpus=1, include_dashboard=False)

        pair = ScalingConfig(num_workers=2, use_gpu=True)
        with WorkerGroup.create(echo_spec(), pair, gang_config=quick, on_progress=add_node) as group:
            assert [rank.node_rank for rank in group.ranks] == [0, 1]
        assert "idle nodes would hold 1 in all" in told[0]
        assert len(ray.nodes()) == 2
        assert_nothing_left()
