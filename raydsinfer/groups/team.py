"""The actors of one gang: start them, call them all, end them all."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raydsinfer.config import GangConfig
from raydsinfer.engines.base import LoadProgress
from raydsinfer.errors import RankTimeoutError, WorkerGroupError
from raydsinfer.groups.calls import Outcome, cause_of, gather
from raydsinfer.groups.deadlines import Lapse, limits_for
from raydsinfer.groups.dump import stacks_of
from raydsinfer.groups.placement import GangRequest
from raydsinfer.groups.pulse import PulseWatch
from raydsinfer.groups.stacks import RankStacks
from raydsinfer.groups.topology import Rank
from raydsinfer.groups.worker import WorkerActor

logger = logging.getLogger(__name__)

_PROGRESS_TIMEOUT_S = 1.0  # a line that comes late is worth nothing
_CLOSE_TIMEOUT_S = 10.0  # closing politely is a courtesy to the engine; killing frees the GPU anyway
_DEATH_TIMEOUT_S = 15.0  # a killed process with tens of GB of pinned memory takes seconds to vanish
_POLL_S = 0.05
_WATCHED = ("load", "call")  # what may take long: a limit for the whole is not enough
_BRIEF = ("become", "open_store", "connect_store", "join_process_group")  # a step each
_HINTS = {
    "late": "GangConfig(start_timeout_s=..., call_timeout_s=..., first_step_timeout_s=...) gives it longer.",
    "stuck": "GangConfig(step_timeout_s=..., first_step_timeout_s=...) gives it longer.",
    "silent": "GangConfig(heartbeat_timeout_s=...) gives it longer.",
}


class Team:
    """One actor a bundle. Until `number` is called they stand in the order of their bundles.

    Args:
        request: What the placement group was made from.
        group: A placement group that is in place.
        gang_config: Deadlines of steps.
    """

    def __init__(self, request: GangRequest, group: PlacementGroup, gang_config: GangConfig) -> None:
        self.gang = request.gang
        self._config = gang_config
        options = _actor_options(request)
        self._actors = [
            WorkerActor.options(
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
                **options,
            ).remote()
            for index in range(request.num_ranks)
        ]
        self._processes = [f"the process of bundle {index}" for index in range(request.num_ranks)]
        self._ranks: tuple[Rank, ...] = ()
        self._warm: set[str] = set()  # methods of the engine that were answered

    @property
    def actors(self) -> Sequence[Any]:
        """The actors, in order of world rank once they have ranks."""
        return tuple(self._actors)

    def number(self, ranks: Sequence[Rank]) -> None:
        """Put the actors into the order of their ranks."""
        self._actors = [self._actors[rank.bundle_index] for rank in ranks]
        self._processes = [f"process {rank.pid} on node {rank.node_ip}" for rank in ranks]
        self._ranks = tuple(ranks)

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
        if method in _BRIEF:
            timeout_s = min(timeout_s, self._config.first_step_timeout_s)
        outcome = gather(refs, timeout_s, self._watch(phase) if method in _WATCHED else None)
        if not outcome.failures and not outcome.silent:
            self._warm.add(phase)
            return [outcome.answers[rank] for rank in range(len(args))]
        # Ray's own exception carries the traceback of the rank's process.
        raise self._error(phase, outcome, timeout_s) from next(iter(outcome.failures.values()), None)

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
        """Kill every process and wait until Ray has seen them die."""
        self.kill()
        deadline = time.monotonic() + _DEATH_TIMEOUT_S
        for actor in self._actors:
            while not _is_dead(actor) and time.monotonic() < deadline:
                time.sleep(_POLL_S)

    def _watch(self, phase: str) -> PulseWatch:
        return PulseWatch(self._actors, limits_for(phase, self._config, is_warm=phase in self._warm))

    def _error(self, phase: str, outcome: Outcome, timeout_s: float) -> WorkerGroupError:
        if outcome.failures:
            failed = {rank: cause_of(error, self._processes[rank]) for rank, error in sorted(outcome.failures.items())}
            return WorkerGroupError(gang=self.gang, phase=phase, causes=failed)
        lapses = outcome.lapses or {rank: Lapse(kind="late", limit_s=timeout_s) for rank in outcome.silent}
        silent = [rank for rank, lapse in lapses.items() if lapse.kind == "silent"]
        stacks: dict[int, RankStacks] = {}
        with suppress(Exception):  # whatever is wrong with Ray, too: it must not hide what happened
            stacks = stacks_of(self._actors, self._ranks, silent)
        told = {rank: str(stack) for rank, stack in sorted(stacks.items())}
        logger.warning("%s is stuck in %s. Stacks:%s", self.gang, phase, "".join(map(_block, told.items())))
        causes: dict[int, BaseException] = {
            rank: RankTimeoutError(
                process=self._processes[rank],
                what=str(lapse),
                timeout_s=lapse.limit_s,
                stack=stacks[rank].innermost if rank in stacks else "",
                hint=_HINTS[lapse.kind],
            )
            for rank, lapse in sorted(lapses.items())
        }
        return WorkerGroupError(gang=self.gang, phase=phase, causes=causes, stacks=told)


def _block(stack: tuple[int, str]) -> str:
    return f"\nrank {stack[0]}:\n{stack[1]}"


def _actor_options(request: GangRequest) -> dict[str, Any]:
    own = ("CPU", "GPU", "memory")
    options: dict[str, Any] = {"num_cpus": request.bundle.get("CPU", 0), "num_gpus": request.bundle.get("GPU", 0)}
    if "memory" in request.bundle:
        options["memory"] = request.bundle["memory"]
    options["resources"] = {name: amount for name, amount in request.bundle.items() if name not in own}
    return options


def _is_dead(actor: Any) -> bool:
    try:
        ray.get(actor.pulse.remote(), timeout=1.0)
    except RayActorError:
        return True
    except RayError:
        return False
    return False
