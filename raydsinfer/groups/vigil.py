"""Notices in threads what no call would: ranks that die while nobody calls them, places that are lost."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import PlacementGroup

from raydsinfer.errors import WorkerGroupError
from raydsinfer.groups.calls import cause_of
from raydsinfer.groups.placement import placement_group_state
from raydsinfer.groups.topology import Rank

logger = logging.getLogger(__name__)

_POLL_S = 1.0  # a small request to each rank, while the gang has nothing to do


class Watched(Protocol):
    """What the watch needs of a `WorkerGroup`."""

    name: str
    ranks: tuple[Rank, ...]

    @property
    def actors(self) -> Sequence[Any]:
        """The processes, in order of world rank."""
        ...

    @property
    def broken(self) -> bool:
        """Whether the gang can take no more calls."""
        ...

    @property
    def idle(self) -> bool:
        """Whether no call is running."""
        ...

    def fail(self, error: WorkerGroupError) -> None:
        """Break the gang."""
        ...


def watch_idle(group: Watched) -> None:
    """Break a gang when a rank of it dies between two calls, so that the others do not hold their GPUs in vain.

    The thread ends with the gang, also with one that was forgotten.
    """
    reference = weakref.ref(group)
    threading.Thread(target=_watch_idle, args=(reference,), name=f"{group.name}-vigil", daemon=True).start()


class PlacementWatch:
    """Asks Ray once a second, in a thread, whether a placement group is still in place. A context manager.

    An actor that waits for a bundle whose node died would wait for another node, for as long as it takes.

    Args:
        group: A placement group that is in place.
        on_lost: Called once, if it is not any more.
    """

    def __init__(self, group: PlacementGroup, on_lost: Callable[[], None]) -> None:
        self._group, self._on_lost = group, on_lost
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="placement-watch", daemon=True)

    def __enter__(self) -> PlacementWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_POLL_S):
            if placement_group_state(self._group) != "CREATED":
                logger.warning("a node of the gang died while its processes started")
                self._on_lost()
                return


def _watch_idle(reference: weakref.ref[Watched]) -> None:
    pause = threading.Event()
    while not pause.wait(_POLL_S):
        if not _is_well(reference()):
            return


def _is_well(group: Watched | None) -> bool:
    # Without the check a call after ray.shutdown() would start a new local cluster.
    if group is None or group.broken or not ray.is_initialized():
        return False
    if group.idle and (causes := _deaths(group)) and not group.broken:
        error = WorkerGroupError(gang=group.name, phase="idle", causes=causes)
        # No warning: at the end of a job this is how idle gangs end. Who still wants the gang will hear of it.
        logger.info("%s", error)
        group.fail(error)
    return not group.broken


def _deaths(group: Watched) -> dict[int, BaseException]:
    # Calls to a process come to it in order: one that is busy by now answers later, which is no matter.
    refs = {actor.__ray_ready__.remote(): rank for actor, rank in zip(group.actors, group.ranks, strict=True)}
    done, _ = ray.wait(list(refs), num_returns=len(refs), timeout=_POLL_S)
    causes: dict[int, BaseException] = {}
    for ref in done:
        rank = refs[ref]
        try:
            ray.get(ref)
        except RayActorError as error:
            causes[rank.world_rank] = cause_of(error, f"process {rank.pid} on node {rank.node_ip}")
        except RayError as error:  # the next call will say more
            logger.debug("%s: rank %d did not answer: %r", group.name, rank.world_rank, error)
    return causes
