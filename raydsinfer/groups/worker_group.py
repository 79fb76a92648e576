"""A gang: placed, loaded, called and stopped as a whole."""

from __future__ import annotations

import threading
import uuid
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

import ray
from ray.actor import ActorHandle

from raydsinfer.config import GangConfig
from raydsinfer.engines.base import EngineSpec
from raydsinfer.errors import EngineError, WorkerGroupError
from raydsinfer.groups.calls import disagreements
from raydsinfer.groups.placement import gang_request
from raydsinfer.groups.reservation import Reservation
from raydsinfer.groups.start import Start
from raydsinfer.groups.vigil import watch_idle

if TYPE_CHECKING:
    from ray.train import ScalingConfig


class WorkerGroup:
    """A running gang of one engine on one or more ranks. Made by `create`; a context manager.

    Attributes:
        name: Name of the gang, in every message about it.
        ranks: Where each rank runs, in order of world rank.
        load_report: What rank 0's engine did to load.
        start_phases_s: ``placement``, ``actors``, ``rendezvous``, ``load`` → seconds.
    """

    def __init__(self, starting: Start, resources: ExitStack) -> None:
        self.name = starting.request.gang
        self.ranks = starting.ranks
        self.load_report = starting.load_report
        self.start_phases_s = starting.phases_s
        self._starting = starting
        self._team, self._call_timeout_s = starting.team, starting.gang_config.call_timeout_s
        self._resources = resources
        self._calls, self._ending = threading.Lock(), threading.Lock()
        self._failure: WorkerGroupError | None = None
        self._closed = False
        # A group that was forgotten gives its GPUs back. In a thread: a finalizer may run in the
        # middle of anything, also of a call into Ray that holds Ray's locks.
        self._finalizer = weakref.finalize(self, _close_in_background, resources)
        self._finalizer.atexit = False
        watch_idle(self)

    @classmethod
    def create(
        cls,
        spec: EngineSpec,
        scaling_config: ScalingConfig,
        *,
        gang_config: GangConfig | None = None,
        name: str = "",
        keeper: ActorHandle[Any] | None = None,
        on_progress: Callable[[str], None] | None = None,
    ) -> WorkerGroup:
        """Start a gang, or leave nothing behind.

        Args:
            spec: What the ranks run.
            scaling_config: `num_workers` is the number of ranks, which is the tensor parallel size.
            gang_config: Deadlines.
            name: Name for messages; by default ``gang-`` and eight letters.
            keeper: A `GangKeeper` actor that owns the placement group, for processes that may be
                killed while their job goes on. None: the group is this process's own.
            on_progress: Gets a line of words at each step.

        Raises:
            ConfigurationError: `scaling_config` asks for what no gang can have.
            ClusterCapacityError: The cluster had no room for the gang in time.
            WorkerGroupError: A rank failed to start or to load. With `VerificationError` as a cause, what the gang
                generates is not right: another way to run the model has to be chosen by the caller, see `verify`.
        """
        request = gang_request(name or new_gang_name(), scaling_config)
        config = gang_config or GangConfig()
        reservation = Reservation(request, config, keeper)
        with ExitStack() as resources:
            resources.callback(reservation.release)
            starting = Start(spec, reservation, config, on_progress or (lambda line: None))
            starting.run(resources)
            return cls(starting, resources.pop_all())

    @property
    def broken(self) -> bool:
        """Whether the gang can take no more calls, because it failed or was shut down."""
        return self._closed or self._failure is not None

    @property
    def failure(self) -> WorkerGroupError | None:
        """What broke the gang, if anything did. Its phase is ``idle`` if a rank died while nobody called."""
        return self._failure

    @property
    def actors(self) -> Sequence[Any]:
        """The ranks' actors, in order of world rank."""
        return self._team.actors

    @property
    def idle(self) -> bool:
        """Whether no call is running."""
        return not self._calls.locked()

    def fail(self, error: WorkerGroupError) -> None:
        """Break the gang, if it is not broken yet, and kill its processes; does not wait for their end."""
        self._failure = self._failure or error
        self._team.kill()

    def run(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the engine on every rank. Calls from several threads take turns.

        If every rank raised `EngineError`, the ranks are still in step and the gang stays usable.
        After any other failure it is `broken`: its processes are killed at once, because ranks that
        wait for a lost one would hold their GPUs for ever.

        Args:
            method: Name of an `Engine` method, for example ``generate``.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Returns:
            Rank 0's answer.

        Raises:
            WorkerGroupError: A rank failed, the answers differ, or the gang was broken before.
        """
        with self._calls:
            self._require_running(method)
            try:
                answers = self._team.call(method, "call", method, args, kwargs, timeout_s=self._call_timeout_s)
                if causes := disagreements(method, [digest for _, digest in answers]):
                    raise WorkerGroupError(gang=self.name, phase=method, causes=causes)
            except WorkerGroupError as error:
                if not _in_step(error, len(self.ranks)):
                    self.fail(error)
                raise
            except BaseException:  # Ctrl-C: ranks are in the middle of a call that nobody waits for
                cause = RuntimeError("interrupted by the caller")
                self.fail(WorkerGroupError(gang=self.name, phase=method, causes={0: cause}))
                raise
            return answers[0][0]

    def shutdown(self) -> None:
        """End every process and give the placement group back; idempotent.

        A call that is running in another thread ends with `WorkerGroupError`.
        """
        with self._ending:
            was_idle = self._calls.acquire(blocking=False)
            try:
                if was_idle and not self.broken and ray.is_initialized():
                    self._team.close()
                    self._starting.ended_well = True
                self._closed = True
                self._finalizer.detach()
                _close(self._resources)
            finally:
                if was_idle:
                    self._calls.release()

    def __enter__(self) -> WorkerGroup:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "broken" if self.broken else "running"
        return f"<WorkerGroup {self.name}: {len(self.ranks)} ranks, {state}>"

    def _require_running(self, method: str) -> None:
        if not self.broken:
            return
        before = f"the gang failed earlier ({self._failure})" if self._failure else "the gang was shut down"
        cause = RuntimeError(f"{before}; make a new one with WorkerGroup.create")
        raise WorkerGroupError(gang=self.name, phase=method, causes={0: cause})


def new_gang_name() -> str:
    """A name that no other gang has."""
    return f"gang-{uuid.uuid4().hex[:8]}"


def _in_step(error: WorkerGroupError, num_ranks: int) -> bool:
    return len(error.causes) == num_ranks and all(
        isinstance(cause, EngineError) and not cause.fatal for cause in error.causes.values()
    )


def _close(resources: ExitStack) -> None:
    # After ray.shutdown() there is nothing left, and any call would start a new local cluster.
    if ray.is_initialized():
        resources.close()


def _close_in_background(resources: ExitStack) -> None:
    threading.Thread(target=_close, args=(resources,), name="gang-close", daemon=True).start()
