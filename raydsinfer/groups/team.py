"""The actors of one gang: start them, call them all, end them all."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import psutil
import ray
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raydsinfer.engines.base import LoadProgress
from raydsinfer.errors import RankTimeoutError, WorkerGroupError
from raydsinfer.groups.calls import Outcome, cause_of, gather
from raydsinfer.groups.placement import GangRequest
from raydsinfer.groups.topology import Rank
from raydsinfer.groups.worker import WorkerActor

logger = logging.getLogger(__name__)

_STACK_TIMEOUT_S = 2.0  # a process that can answer does so in milliseconds
_PROGRESS_TIMEOUT_S = 1.0  # a line that comes late is worth nothing
_CLOSE_TIMEOUT_S = 10.0  # closing politely is a courtesy to the engine; killing frees the GPU anyway
_DEATH_TIMEOUT_S = 15.0  # a killed process with tens of GB of pinned memory takes seconds to vanish
_POLL_S = 0.05


class Team:
    """One actor a bundle. Until `number` is called they stand in the order of their bundles.

    Args:
        request: What the placement group was made from.
        group: A placement group that is in place.
    """

    def __init__(self, request: GangRequest, group: PlacementGroup) -> None:
        self.gang = request.gang
        options = _actor_options(request)
        self._actors = [
            WorkerActor.options(
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
                **options,
            ).remote()
            for index in range(request.num_ranks)
        ]
        self._processes = [f"the process of bundle {index}" for index in range(request.num_ranks)]
        self._local_pids: list[int] = []

    def number(self, ranks: Sequence[Rank]) -> None:
        """Put the actors into the order of their ranks."""
        here = ray.get_runtime_context().get_node_id()
        self._actors = [self._actors[rank.bundle_index] for rank in ranks]
        self._processes = [f"process {rank.pid} on node {rank.node_ip}" for rank in ranks]
        self._local_pids = [rank.pid for rank in ranks if rank.node_id == here]

    def call(self, phase: str, method: str, *args: Any, timeout_s: float) -> list[Any]:
        """Call every rank with the same arguments; see `call_each`."""
        return self.call_each(phase, method, [args] * len(self._actors), timeout_s=timeout_s)

    def call_each(self, phase: str, method: str, args: Sequence[tuple[Any, ...]], *, timeout_s: float) -> list[Any]:
        """Call the first ranks, each with its own arguments.

        Args:
            phase: What the gang is doing, for the error.
            method: Method of `Worker`.
            args: Arguments by rank; ranks beyond its end are not called.
            timeout_s: Seconds that all of them have.

        Returns:
            Answers by rank.

        Raises:
            WorkerGroupError: A rank failed, or did not answer in time.
        """
        pairs = zip(self._actors, args, strict=False)
        refs = {rank: getattr(actor, method).remote(*given) for rank, (actor, given) in enumerate(pairs)}
        outcome = gather(refs, timeout_s)
        if not outcome.failures and not outcome.silent:
            return [outcome.answers[rank] for rank in range(len(args))]
        error = WorkerGroupError(gang=self.gang, phase=phase, causes=self._causes(outcome, timeout_s))
        # Ray's own exception carries the traceback of the rank's process.
        raise error from next(iter(outcome.failures.values()), None)

    def progress(self) -> dict[int, LoadProgress]:
        """World rank → how far its load has come, of the ranks that answer at once."""
        refs = {rank: actor.progress.remote() for rank, actor in enumerate(self._actors)}
        return gather(refs, _PROGRESS_TIMEOUT_S).answers

    def close(self) -> None:
        """Let the engines close. Only for ranks that are idle: a busy one would not come to it."""
        outcome = gather({rank: actor.close.remote() for rank, actor in enumerate(self._actors)}, _CLOSE_TIMEOUT_S)
        for rank, error in outcome.failures.items():
            logger.warning("%s: rank %d did not close well: %s", self.gang, rank, cause_of(error, "it"))

    def kill(self) -> None:
        """Kill every process, without waiting; idempotent."""
        for actor in self._actors:
            ray.kill(actor, no_restart=True)

    def kill_and_wait(self) -> None:
        """Kill every process and wait until Ray, and this node, have seen them die."""
        self.kill()
        deadline = time.monotonic() + _DEATH_TIMEOUT_S
        for actor in self._actors:
            while not _is_dead(actor) and time.monotonic() < deadline:
                time.sleep(_POLL_S)
        while (left := [pid for pid in self._local_pids if _is_running(pid)]) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        if left:
            logger.warning("%s: processes %s were killed but are still there", self.gang, left)

    def _causes(self, outcome: Outcome, timeout_s: float) -> dict[int, BaseException]:
        if outcome.failures:
            return {rank: cause_of(error, self._processes[rank]) for rank, error in sorted(outcome.failures.items())}
        stacks = gather({rank: self._actors[rank].stack.remote() for rank in outcome.silent}, _STACK_TIMEOUT_S)
        hint = "GangConfig(start_timeout_s=..., call_timeout_s=...) sets how long ranks may take."
        return {
            rank: RankTimeoutError(
                process=self._processes[rank], timeout_s=timeout_s, stack=stacks.answers.get(rank, ""), hint=hint
            )
            for rank in outcome.silent
        }


def _actor_options(request: GangRequest) -> dict[str, Any]:
    own = ("CPU", "GPU", "memory")
    options: dict[str, Any] = {"num_cpus": request.bundle.get("CPU", 0), "num_gpus": request.bundle.get("GPU", 0)}
    if "memory" in request.bundle:
        options["memory"] = request.bundle["memory"]
    options["resources"] = {name: amount for name, amount in request.bundle.items() if name not in own}
    return options


def _is_dead(actor: Any) -> bool:
    try:
        ray.get(actor.stack.remote(), timeout=1.0)
    except RayActorError:
        return True
    except RayError:
        return False
    return False


def _is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
