"""Gangs come and go with the nodes of the cluster, and every row is answered once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
import ray
import ray.data
from ray.cluster_utils import Cluster
from ray.train import ScalingConfig

from raydsinfer import BatchPredictor, DeepSpeedCheckpoint, DeepSpeedPredictor, EngineConfig, GangConfig
from tests.clusters import OBJECT_STORE_BYTES, assert_nothing_left, several_nodes

NUM_ROWS = 400
# A gang that finds no place says so soon, and waits on.
QUICK = GangConfig(placement_timeout_s=15, start_timeout_s=60, call_timeout_s=60, lease_ttl_s=3)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """One node with room for one gang."""
    with several_nodes(1) as cluster:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        yield cluster
        assert_nothing_left()


class NamesItsNode(DeepSpeedPredictor):
    """Says on which node its gang is."""

    def _predict_arrow(self, data: pa.Table, *args: Any, **kwargs: Any) -> pa.Table:
        out = super()._predict_arrow(data, *args, **kwargs)
        return out.append_column("node", [[self.group.ranks[0].node_id] * len(data)])


def test_gangs_grow_with_the_cluster_and_outlive_a_lost_node(cluster: Cluster) -> None:
    predictor = BatchPredictor.from_checkpoint(
        DeepSpeedCheckpoint.from_pretrained("none", EngineConfig(engine="echo", max_batch_size=5, echo_delay_s=0.2)),
        NamesItsNode,
        scaling_config=ScalingConfig(num_workers=1, use_gpu=True, resources_per_worker={"CPU": 0.1, "GPU": 1}),
        gang_config=QUICK,
    )
    data = ray.data.from_items([{"id": i, "prompt": f"row {i}"} for i in range(NUM_ROWS)], override_num_blocks=4)
    out = predictor.predict(data, keep_columns=["id"], batch_size=5, max_scoring_workers=2)
    rows: list[dict[str, Any]] = []
    second: Any = None
    num_lost_after = 0
    for table in out.iter_batches(batch_size=None, batch_format="pyarrow"):
        rows += table.to_pylist()
        if rows and second is None:
            second = cluster.add_node(num_cpus=2, num_gpus=1, object_store_memory=OBJECT_STORE_BYTES)
        if not num_lost_after and len({row["node"] for row in rows}) == 2:
            time.sleep(0.1)  # into a batch
            cluster.remove_node(second)
            num_lost_after = len(rows)
    assert 0 < num_lost_after < NUM_ROWS, "the second gang did not come, or not in time"
    assert sorted((row["id"], row["output"]) for row in rows) == [(i, f"row {i}") for i in range(NUM_ROWS)]
