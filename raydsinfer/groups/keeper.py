"""Who owns the placement groups of gangs whose predictors Ray Data makes, restarts and kills.

A placement group that an actor made outlives that actor until the job ends, and nobody tells the
driver of a lazy data set that its execution is over. So one 0-CPU actor, the keeper, makes the groups
and leases them; a predictor renews its lease from a thread. A lease that was not renewed in time is
removed, and Ray ends the rank processes in it. Why its holder went silent does not matter.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydsinfer.groups.budget import Budget
from raydsinfer.groups.placement import GangRequest, placement_group_state, reserve
from raydsinfer.groups.row_counts import RowCounts
from raydsinfer.groups.verdicts import JobIsOver

logger = logging.getLogger(__name__)

_SWEEP_S = 0.25  # how late a lease may be found to have ended
_GRACE_S = 2.0  # a gang that closes in peace takes under a second
# For leases to end, which takes seconds. On a node where this process hardly runs they take longer, and what they hold
# would stay until the driver leaves.
_DRAIN_S = 60.0


@dataclass
class _Held:
    group: PlacementGroup
    ttl_s: float
    renewed_at: float


class GangKeeper:
    """Makes, leases and removes placement groups, and counts for all gangs of a job. An actor: see `start_keeper`.

    It never learns who holds a lease: the handle of a predictor actor would keep that actor alive,
    and an actor that Ray restarts keeps its id while the gang of its former process is lost. A lease
    has a token of its own instead.
    """

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()
        self._myself: ActorHandle[Any] | None = None
        self._between_jobs = False
        self._restarts, self._rows, self._counted_at = Budget(), RowCounts(), time.monotonic()
        threading.Thread(target=self._sweep, name="lease-sweep", daemon=True).start()

    def lease(self, token: str, request: GangRequest, ttl_s: float, myself: ActorHandle[Any]) -> PlacementGroup:
        """Make a placement group; it is removed when it was not renewed for `ttl_s` seconds.

        Args:
            token: Name of the lease, chosen by the holder.
            request: What to ask of the cluster.
            ttl_s: Seconds of silence after which the lease ends.
            myself: Handle of this actor. Ray ends an actor when nobody has a handle any more; this
                one must not end before its leases, or nobody would remove their groups.
        """
        with self._lock:
            if self._between_jobs:
                raise JobIsOver
            group = reserve(request)
            self._held[token] = _Held(group, ttl_s, time.monotonic())
            self._myself = myself
            return group

    def renew(self, token: str) -> bool:
        """Say that the holder is alive; False if the lease has ended."""
        with self._lock:
            if token not in self._held or self._between_jobs:
                return False
            self._held[token].renewed_at = time.monotonic()
            return True

    def release(self, token: str) -> None:
        """End a lease; idempotent."""
        with self._lock:
            self._remove(token)

    def begin(self) -> None:
        """A job begins: leases are given out and counts are zero. So it is before the first job, too."""
        with self._lock:
            self._between_jobs = False
            self._restarts, self._rows, self._counted_at = Budget(), RowCounts(), time.monotonic()

    def end(self, grace_s: float = _GRACE_S) -> None:
        """The job is over: leases end, and there are no new ones before the next job.

        Not every holder learns of the end of its job, and one may still be about to start.

        Args:
            grace_s: Seconds that holders have to close in peace.
        """
        with self._lock:
            self._between_jobs = True
            for held in self._held.values():
                held.renewed_at, held.ttl_s = time.monotonic(), grace_s

    @ray.method(concurrency_group="drain")
    def drain(self, timeout_s: float = _DRAIN_S) -> None:
        """Wait until all leases have ended. Runs beside the other calls.

        Ray ends an actor that nobody has a handle of, but not in the middle of a call. That the keeper
        has its own handle may get lost on Ray when a predictor is killed that passed it on.

        Args:
            timeout_s: Seconds to wait at most.
        """
        deadline = time.monotonic() + timeout_s
        while self._held and time.monotonic() < deadline:
            time.sleep(_SWEEP_S)

    def num_leases(self) -> int:
        """How many leases are held."""
        with self._lock:
            return len(self._held)

    def num_placed(self) -> int:
        """How many of the leased groups Ray has placed."""
        with self._lock:
            groups = [held.group for held in self._held.values()]
        return sum(placement_group_state(group) == "CREATED" for group in groups)

    def take_restart(self, limit: int, window_s: float) -> bool:
        """Count a restart of a gang; False if the job has had `limit` of them in the last `window_s` seconds."""
        with self._lock:
            return self._restarts.take(limit, window_s, time.monotonic())

    def refund_restarts(self, num_restarts: int) -> None:
        """Restarts that do not count after all."""
        with self._lock:
            self._restarts.refund(num_restarts)

    def count_rows(self, num_rows: int, num_errors: int, example: str = "") -> RowCounts:
        """Count rows of a gang after each batch; see `RowCounts`.

        Args:
            num_rows: Rows that were answered or failed since the last call.
            num_errors: Those that failed.
            example: The error of one of them.

        Returns:
            Those of the job so far.
        """
        with self._lock:
            self._rows, self._counted_at = self._rows.plus(num_rows, num_errors, example), time.monotonic()
            return self._rows

    def idle_s(self) -> float:
        """Seconds since the job began or a gang last counted rows, were it none."""
        with self._lock:
            return time.monotonic() - self._counted_at

    def _sweep(self) -> None:
        while True:
            slept_from = time.monotonic()
            time.sleep(_SWEEP_S)
            # A process that was stopped for a while finds renewals waiting that came in time.
            overslept_s = time.monotonic() - slept_from - _SWEEP_S
            with self._lock:
                now = time.monotonic()
                for held in self._held.values() if overslept_s > 1 else ():
                    held.renewed_at += overslept_s
                for token in [t for t, held in self._held.items() if now - held.renewed_at > held.ttl_s]:
                    try:
                        self._remove(token)
                    except Exception:  # Ray's control plane is away for a moment: the next round tries again
                        logger.exception("the placement group of lease %s could not be removed", token)

    def _remove(self, token: str) -> None:
        held = self._held.get(token)
        if held is not None:
            remove_placement_group(held.group)
            del self._held[token]
        if not self._held:
            self._myself = None


def start_keeper() -> ActorHandle[Any]:
    """Start a keeper. It ends with its last lease once nobody has the handle, or with the job.

    It lives on the caller's node: losing any other, with gangs on it, must not cost the gangs of all nodes.
    """
    remote: Any = ray.remote
    # Not softly: actors that ask for nothing Ray then puts anywhere.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "concurrency_groups": {"drain": 1}, "scheduling_strategy": here}
    handle: ActorHandle[Any] = remote(**options)(GangKeeper).remote()
    return handle
