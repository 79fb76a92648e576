"""How a gang starts, step by step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.config import GangConfig
from raydsinfer.engines.base import EngineSpec, LoadReport, RankContext
from raydsinfer.errors import EngineError, WorkerGroupError
from raydsinfer.groups.remains import end_remains
from raydsinfer.groups.reservation import Reservation
from raydsinfer.groups.team import Team
from raydsinfer.groups.topology import Rank, assign_ranks, meeting_host
from raydsinfer.groups.vigil import PlacementWatch
from raydsinfer.groups.watch import LoadWatch, progress_line

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

_NUM_RENDEZVOUS = 3  # a store that cannot be reached once may have met a full port table or a dropped packet
_CONNECT_TIMEOUT_S = 60.0


class Start:
    """The steps of a start, and what they bring about. One use.

    Args:
        spec: What the ranks run.
        reservation: Where; the caller gives it back.
        gang_config: Deadlines.
        on_progress: Gets a line of words at each step.

    Attributes:
        ended_well: Whether the engines were closed before the ranks are ended: then other nodes are not searched.
        lost_nodes: Ids of nodes that did not answer when the ranks were ended.
    """

    team: Team
    load_report: LoadReport

    def __init__(
        self, spec: EngineSpec, reservation: Reservation, gang_config: GangConfig, on_progress: Callable[[str], None]
    ) -> None:
        self.spec, self.request, self.gang_config, self._tell = spec, reservation.request, gang_config, on_progress
        self.phases_s: dict[str, float] = {}
        self.ranks: tuple[Rank, ...] = ()
        self.ended_well, self.lost_nodes = False, tuple[str, ...]()
        self._reservation, self._aborted, self._done = reservation, threading.Event(), False

    def abort(self) -> None:
        """End a start that another thread runs, or will run: it raises `WorkerGroupError`. No effect after it."""
        self._aborted.set()
        if not self._done and hasattr(self, "team"):
            self.team.kill()

    def run(self, resources: ExitStack) -> None:
        """Acquire in order; `resources` gets what releases in reverse."""
        with self._phase("placement"):
            group = self._reservation.acquire(on_progress=self._tell, is_over=self._aborted.is_set)
        self._deadline = time.monotonic() + self.gang_config.start_timeout_s
        with self._phase("actors"):
            wants_process_group = self._start_actors(resources, group)
        with self._phase("rendezvous"):
            if wants_process_group:
                self._meet()
        with self._phase("load"):
            self._tell(f"loading {without_secrets(self.spec.model)} on {_counted(len(self.ranks), 'rank')}")
            with LoadWatch(self.team.progress, self._tell):
                reports = self.team.call("load", "load", timeout_s=self._left_s())
            self._tell_filled(reports)
            self.load_report = reports[0]
            self._tell_found()
        self._done = True
        self._tell(f"ready after {sum(self.phases_s.values()):.1f} s")

    def _start_actors(self, resources: ExitStack, group: PlacementGroup) -> bool:
        self._tell(f"starting {_counted(self.request.num_ranks, 'process', 'es')}")
        resources.callback(self._end_remains)
        self.team = Team(self.request, group, self.gang_config)
        resources.callback(self.team.kill_and_wait)
        if self._aborted.is_set():
            cause = RuntimeError("the gang was shut down while it started")
            raise WorkerGroupError(gang=self.request.gang, phase="start", causes={0: cause})
        with PlacementWatch(group, on_lost=self.team.kill):
            self.ranks = assign_ranks(self.team.call("start", "place", timeout_s=self._left_s()))
        self.team.number(self.ranks)
        num_nodes = self.ranks[-1].node_rank + 1
        self._tell(f"{_counted(len(self.ranks), 'rank')} on {_counted(num_nodes, 'node')}")
        given = [(self.spec, rank_context(self.request.gang, self.ranks, rank)) for rank in self.ranks]
        return bool(self.team.call_each("start", "become", given, timeout_s=self._left_s())[0])

    def _meet(self) -> None:
        host, config = meeting_host(self.ranks), self.gang_config
        for attempt in range(1, _NUM_RENDEZVOUS + 1):
            timeout_s = min(_CONNECT_TIMEOUT_S, self._left_s())
            port = self.team.call_each("rendezvous", "open_store", [(host, timeout_s)], timeout_s=self._left_s())[0]
            self._tell(f"rendezvous at {host}:{port}")
            try:
                self.team.call("rendezvous", "connect_store", host, port, timeout_s, timeout_s=self._left_s())
                break
            except WorkerGroupError as error:
                lost = all(isinstance(cause, EngineError) for cause in error.causes.values())
                if not lost or attempt == _NUM_RENDEZVOUS:
                    raise
        limits = (config.start_timeout_s, config.call_timeout_s)
        self.team.call("rendezvous", "join_process_group", *limits, timeout_s=self._left_s())

    def _end_remains(self) -> None:
        self.lost_nodes = end_remains(self.ranks, everywhere=not self.ended_well)

    def _tell_filled(self, reports: Sequence[LoadReport]) -> None:
        if line := progress_line({rank: report.filled for rank, report in enumerate(reports)}):
            self._tell(line)

    def _tell_found(self) -> None:
        if self.load_report.note:
            self._tell(self.load_report.note)
        found = self.load_report.verification
        if found is not None and found.canaries:
            self._tell(f"text is that of plain transformers ({found.rung}; compared in {found.seconds:.1f} s)")

    def _left_s(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.phases_s[name] = time.monotonic() - started


def _counted(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{plural if number != 1 else ''}"


def rank_context(gang: str, ranks: Sequence[Rank], rank: Rank) -> RankContext:
    """What the engine of a rank gets to know of its gang."""
    return RankContext(
        gang=gang,
        world_rank=rank.world_rank,
        world_size=len(ranks),
        local_rank=rank.local_rank,
        local_world_size=rank.local_world_size,
        node_rank=rank.node_rank,
        num_nodes=ranks[-1].node_rank + 1,
        device="cuda:0" if rank.gpu_ids else "cpu",
    )
