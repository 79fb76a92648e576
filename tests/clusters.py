"""Small Ray clusters with fake GPUs, and what is left on them after a test."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group_table

LEFT_TIMEOUT_S = 30.0  # three modules share two cores: an actor that is ended may wait for its turn
OBJECT_STORE_BYTES = 100 * 2**20

# Ray Data starts these once a cluster and leaves them: they hold no CPU, no GPU and nothing of ours.
RAY_DATA_SERVICES = (
    "ActorLocationTracker",
    "AutoscalingRequester",
    "_AutoscalingCoordinatorActor",
    "_StatsActor",
    "_UsageCollectionActor",
)


def left_of_gangs() -> dict[str, list[str]]:
    """What lives on the cluster: placement groups, actors and rank processes."""
    groups = [str(name) for name, group in placement_group_table().items() if group["state"] != "REMOVED"]
    # The state API would need the dashboard.
    actors = [
        f"{actor['ActorClassName']} {actor['State']}"
        for actor in ray._private.state.actors().values()
        if actor["State"] != "DEAD" and actor["ActorClassName"] not in RAY_DATA_SERVICES
    ]
    return {
        "placement groups": groups,
        "actors": actors,
        "processes": [title for title in process_titles() if title.startswith(("ray::Worker", "ray::GangKeeper"))],
    }


def process_titles() -> list[str]:
    """Titles of this test run's own processes; Ray names one after what it runs, like ``ray::Worker.call``."""
    titles = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                titles.append(" ".join(process.cmdline()))
        except psutil.Error:  # it ended between the two calls
            continue
    return titles


def assert_nothing_left(timeout_s: float = LEFT_TIMEOUT_S) -> None:
    """Fail if an actor, a placement group or a rank process outlives its test."""
    deadline = time.monotonic() + timeout_s
    while any((left := left_of_gangs()).values()) and time.monotonic() < deadline:
        # Ray Data's idle actors live in a reference cycle after a failed job, and so do data sets that
        # a thread of its own is still closing.
        gc.collect()
        time.sleep(0.1)
    assert not any(left.values()), left


def join_node() -> None:
    """Be on a Ray of one node with 4 CPUs and 4 fake GPUs.

    It stays for the next module that wants it: each start costs a second of some ten processes. Who wants another Ray
    ends it.
    """
    if not ray.is_initialized():
        ray.init(
            address="local",
            num_cpus=4,
            num_gpus=4,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            logging_level="ERROR",
        )


@contextmanager
def several_nodes(*gpus_per_node: int) -> Iterator[Cluster]:
    """A Ray of several nodes on this machine, each with so many fake GPUs."""
    ray.shutdown()
    cluster = Cluster(shutdown_at_exit=False)
    try:
        for num_gpus in gpus_per_node:
            cluster.add_node(
                num_cpus=2, num_gpus=num_gpus, object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False
            )
        ray.init(address=cluster.address, logging_level="ERROR")
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
