"""A cluster on this machine that outlives many faults, the processes of a job on it, and the drivers of jobs."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

from tests.clusters import OBJECT_STORE_BYTES
from tests.faults.job import Job

ROOT = Path(__file__).parents[2]
RANK, PREDICTOR = "Worker", "MapWorker"  # what the classes of their actors are called, or begin with

# A node that is gone should not take most of a test's time to be missed: Ray's defaults add up to half a minute.
_QUICK_TO_MISS = {"health_check_period_ms": 1000, "health_check_timeout_ms": 5000, "health_check_failure_threshold": 4}


class Machine:
    """A Ray cluster of a head without GPUs and of some nodes with fake ones. A context manager.

    Args:
        num_nodes: Nodes with GPUs.
        gpus_per_node: Fake ones.
    """

    def __init__(self, num_nodes: int = 3, gpus_per_node: int = 2) -> None:
        self._num_nodes, self._gpus = num_nodes, gpus_per_node
        self._cluster = Cluster(shutdown_at_exit=False)
        self.nodes: list[Any] = []
        self._drivers: list[Driver] = []

    def __enter__(self) -> Machine:
        # Temporary files of its processes are apart from everybody else's: what they leave can be seen.
        self._temporary, self._before = (
            tempfile.TemporaryDirectory(prefix="machine-", ignore_cleanup_errors=True),
            os.environ.get("TMPDIR"),
        )
        os.environ["TMPDIR"] = self._temporary.name
        self._others = set(psutil.Process().children(recursive=True))
        try:
            self._cluster.add_node(**self._size(2, 0), _system_config=_QUICK_TO_MISS)
            for _ in range(self._num_nodes):
                self.add_node()
            ray.init(address=self._cluster.address, logging_level="ERROR", log_to_driver=False)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        processes = set(psutil.Process().children(recursive=True)) - self._others
        try:
            for driver in self._drivers:
                driver.kill()
            ray.shutdown()
            self._cluster.shutdown()
        finally:  # what could not be ended in order
            for process in processes:
                signal_to(process.pid, signal.SIGKILL)
            os.environ.pop("TMPDIR")
            if self._before is not None:
                os.environ["TMPDIR"] = self._before
            self._temporary.cleanup()

    @property
    def address(self) -> str:
        """What drivers connect to."""
        return str(self._cluster.address)

    def add_node(self) -> None:
        """One more node with GPUs."""
        self.nodes.append(self._cluster.add_node(**self._size(1, self._gpus)))

    def lose_node(self, node: Any) -> None:
        """A node dies as a machine does: everything on it at once."""
        victims = [raylet.process.pid for raylet in node.all_processes["raylet"]]
        tree = [child for pid in victims for child in psutil.Process(pid).children(recursive=True)]
        self.nodes.remove(node)
        for process in tree:
            signal_to(process.pid, signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)

    def pids(self, actor_class: str) -> list[int]:
        """Processes of the living actors of a class, oldest actor first."""
        actors = ray._private.state.actors().values()
        found = [
            actor for actor in actors if actor["State"] == "ALIVE" and actor["ActorClassName"].startswith(actor_class)
        ]
        return [int(actor["Pid"]) for actor in sorted(found, key=lambda actor: actor["StartTime"])]

    def node_of(self, pid: int) -> Any:
        """The node that a process is on; None for the head's."""
        ancestors = {parent.pid for parent in psutil.Process(pid).parents()}
        for node in self.nodes:
            if ancestors & {raylet.process.pid for raylet in node.all_processes["raylet"]}:
                return node
        return None

    def start(self, job: Job) -> Driver:
        """Start a driver; it ends with this machine at the latest."""
        driver = Driver(job)
        self._drivers.append(driver)
        return driver

    def _size(self, num_cpus: int, num_gpus: int) -> dict[str, Any]:
        return {
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }


def end_in_order() -> None:
    """Make SIGTERM an exit like any other, so that the cluster ends too, and Ctrl-C work in background jobs."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Driver:
    """A driver of a job, a process of its own."""

    def __init__(self, job: Job) -> None:
        self.job = job
        job.write()
        for path in (job.output_path, job.output_path.with_suffix(".part"), job.error_path):
            path.unlink(missing_ok=True)
        with Path(job.path).with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.driver", job.path],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def num_done(self) -> int:
        """Rows that it has written."""
        path = self.job.output_path.with_suffix(".part")
        path = self.job.output_path if self.job.output_path.exists() else path
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        self._process.kill()
        self._process.wait()

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code; None if it has none in time."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None


def signal_to(pid: int, number: signal.Signals) -> bool:
    """Send a signal; False if nobody is there any more."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def wait_for(true: Callable[[], Any], timeout_s: float) -> Any:
    """What a condition gives once it is true; what it gave last if it never is."""
    deadline = time.monotonic() + timeout_s
    while not (found := true()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def chosen(generator: random.Random, pids: list[int]) -> int | None:
    """One of them."""
    return generator.choice(pids) if pids else None
