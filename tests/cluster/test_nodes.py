"""A function on every node of a cluster of two, and what becomes of it there."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from raydsinfer import run_on_every_node
from raydsinfer.errors import CheckpointError, ConfigurationError, NodeDiedError, NodeTimeoutError
from raydsinfer.groups.nodes import alive_nodes
from raydsinfer.nodes import NodeResult
from tests.clusters import OBJECT_STORE_BYTES, assert_nothing_left, several_nodes
from tests.commands import wait_until


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Cluster]:
    """The first has no GPU, the second has one and labels."""
    with several_nodes(0) as cluster:
        cluster.add_node(num_cpus=2, num_gpus=1, object_store_memory=OBJECT_STORE_BYTES, labels={"disk": "nvme"})
        cluster.wait_for_nodes()
        yield cluster
        assert_nothing_left()


def gpu_node() -> str:
    return next(node.node_id for node in alive_nodes() if node.num_gpus)


def here() -> str:
    return ray.get_runtime_context().get_node_id()


def wait_for(path: Path, lines: int = 1) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() or len(path.read_text().splitlines()) < lines:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def note_and_answer(notes: Path, *, word: str) -> str:
    with notes.open("a") as file:
        file.write(f"{here()}\n")
    return f"{word} {here()}"


def test_once_on_each_node(two_nodes: Cluster, tmp_path: Path) -> None:
    came: list[NodeResult[str]] = []
    results = run_on_every_node(note_and_answer, (tmp_path / "n",), {"word": "on"}, on_result=came.append)
    ids = {node.node_id for node in alive_nodes()}
    assert len(ids) == 2
    assert sorted((tmp_path / "n").read_text().split()) == sorted(ids) == sorted(results)
    assert {result.value for result in results.values()} == {f"on {node_id}" for node_id in ids}
    assert all(result.ok and result.seconds < 30 for result in results.values())
    assert sorted(result.node_id for result in came) == sorted(ids)


def test_only_some_nodes(two_nodes: Cluster) -> None:
    assert list(run_on_every_node(here, gpu_only=True)) == [gpu_node()]
    assert list(run_on_every_node(here, labels={"disk": "nvme"})) == [gpu_node()]
    with pytest.raises(ConfigurationError, match="living nodes"):
        run_on_every_node(here, labels={"disk": "tape"})


@ray.remote(num_cpus=2)
class Busy:
    def where(self) -> str:
        return here()


def test_nodes_whose_cpus_are_all_taken(two_nodes: Cluster) -> None:
    hogs: list[Any] = [Busy.remote() for _ in range(2)]  # type: ignore[attr-defined]
    try:
        assert len({*ray.get([hog.where.remote() for hog in hogs], timeout=60)}) == 2
        results = run_on_every_node(here, timeout_s=60)
        assert {node_id: result.value for node_id, result in results.items()} == {
            n.node_id: n.node_id for n in alive_nodes()
        }
        waited = run_on_every_node(here, num_cpus=1, timeout_s=1)
        assert [type(result.error) for result in waited.values()] == [NodeTimeoutError] * 2
    finally:
        for hog in hogs:
            ray.kill(hog)
    assert_nothing_left()


def fail_on(node_id: str, how: str) -> str:
    if here() == node_id:
        if how == "raise":
            raise CheckpointError(path="/model", reason="it is not there")
        if how == "unpicklable":
            return threading.Lock()  # type: ignore[return-value]
        os.kill(os.getpid(), signal.SIGKILL)
    return "fine"


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ("raise", CheckpointError, "/model: it is not there"),
        ("die", NodeDiedError, "its process died"),
        ("unpicklable", TypeError, "pickle"),
    ],
)
def test_a_node_that_fails_does_not_hold_up_the_other(two_nodes: Cluster, how: str, error: type, says: str) -> None:
    bad = gpu_node()
    results = run_on_every_node(fail_on, (bad, how))
    assert isinstance(results[bad].error, error)
    assert says in str(results[bad].error)
    assert [result.value for node_id, result in results.items() if node_id != bad] == ["fine"]


def test_resources_that_a_node_does_not_have(two_nodes: Cluster) -> None:
    results = run_on_every_node(here, num_gpus=1, timeout_s=60)
    assert results.pop(gpu_node()).ok
    (other,) = results.values()
    assert isinstance(other.error, NodeDiedError)
    assert "does not have {'num_gpus': 1}" in str(other.error)


def hang(notes: Path, on_node: str | None, deaf: bool = False) -> str:
    if on_node not in (None, here()):
        return "fine"
    with notes.open("a") as file:
        file.write(f"{os.getpid()}\n")
    while True:
        try:
            time.sleep(0.05)
        except KeyboardInterrupt:
            with notes.open("a") as file:
                file.write("interrupted\n")
            if not deaf:
                raise


@pytest.mark.parametrize("deaf", [False, True])
def test_time_is_up_on_one_node(two_nodes: Cluster, tmp_path: Path, deaf: bool) -> None:
    notes, slow = tmp_path / "n", gpu_node()
    results = run_on_every_node(hang, (notes, slow, deaf), timeout_s=3, stop_s=1)
    assert isinstance(results[slow].error, NodeTimeoutError)
    assert "within 3 s" in str(results[slow].error)
    assert [result.value for node_id, result in results.items() if node_id != slow] == ["fine"]
    pid, *words = notes.read_text().split()
    assert words == ["interrupted"]
    if deaf:  # it did not listen: its process ends
        wait_until(lambda: not psutil.pid_exists(int(pid)))


def test_an_interrupt_here_stops_it_there(two_nodes: Cluster, tmp_path: Path) -> None:
    notes = tmp_path / "n"

    def interrupt() -> None:
        wait_for(notes, 2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run_on_every_node(hang, (notes, None))
    assert notes.read_text().split().count("interrupted") == 2


def test_a_node_that_is_lost_in_the_middle(two_nodes: Cluster, tmp_path: Path) -> None:
    notes = tmp_path / "n"
    doomed = two_nodes.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES)
    two_nodes.wait_for_nodes()

    def remove() -> None:
        wait_for(notes)
        two_nodes.remove_node(doomed, allow_graceful=False)

    remover = threading.Thread(target=remove)
    remover.start()
    results = run_on_every_node(hang, (notes, doomed.node_id), timeout_s=60)
    remover.join()
    assert len(results) == 3
    lost = results.pop(doomed.node_id)
    assert isinstance(lost.error, NodeDiedError)
    assert "the node was lost" in str(lost.error)
    assert [result.value for result in results.values()] == ["fine", "fine"]
