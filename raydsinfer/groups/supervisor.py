"""A gang that starts again after it broke."""

from __future__ import annotations

import copy
import logging
import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

import ray
from ray.actor import ActorHandle

from raydsinfer.config import GangConfig, RecoveryConfig
from raydsinfer.engines.base import EngineSpec
from raydsinfer.errors import RaydsinferError, RestartsExhaustedError, WorkerGroupError
from raydsinfer.groups.budget import backoff_s
from raydsinfer.groups.descent import Descent
from raydsinfer.groups.history import History
from raydsinfer.groups.placement import gang_request
from raydsinfer.groups.reservation import Reservation
from raydsinfer.groups.restarts import Restarts
from raydsinfer.groups.start import Start
from raydsinfer.groups.verdicts import can_only_repeat, in_short, is_same_failure
from raydsinfer.groups.worker_group import WorkerGroup, new_gang_name

if TYPE_CHECKING:
    from ray.train import ScalingConfig

logger = logging.getLogger(__name__)

# The same error of an engine, so often in a row, before the gang ever worked: a fourth start would bring it again.
_NUM_EQUAL_STARTS = 3


class GangSupervisor:
    """A gang that starts again, as a whole, after it broke. Thread-safe.

    Its placement group outlives its processes: a gang comes back to the nodes and GPUs that it had, unless one of
    them is gone. Who calls `run` also calls `restart` when the gang is broken, once for all who share it.

    Args:
        spec: What the ranks run.
        scaling_config: `num_workers` is the number of ranks.
        gang_config: Deadlines.
        recovery_config: How often it may start again, and how long it waits.
        keeper: A `GangKeeper` actor that owns the placement group and counts the restarts of all gangs of the job.
            None: the group is this process's own, and only its own restarts count.
        name: Name for messages; by default ``gang-`` and eight letters.
        on_progress: Gets a line of words at each step, from whichever thread starts the gang.

    Raises:
        ConfigurationError: `scaling_config` asks for what no gang can have.
    """

    def __init__(
        self,
        spec: EngineSpec,
        scaling_config: ScalingConfig,
        *,
        gang_config: GangConfig | None = None,
        recovery_config: RecoveryConfig | None = None,
        keeper: ActorHandle[Any] | None = None,
        name: str = "",
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name or new_gang_name()
        self._tell = on_progress or (lambda line: None)
        self._gang_config, self._recovery = gang_config or GangConfig(), recovery_config or RecoveryConfig()
        request = gang_request(self.name, scaling_config)
        self._descent = Descent(spec, request.num_ranks)
        self._reservation = Reservation(request, self._gang_config, keeper)
        self._restarts = Restarts(self.name, self._recovery, keeper)
        self._history = History()
        self._num_in_vain = 0  # restarts since anything was answered
        self._starting: Start | None = None
        self._group: WorkerGroup | None = None
        self._end: RaydsinferError | None = None  # why there will be no other start
        self._lock, self._stopped = threading.RLock(), threading.Event()
        self._finalizer = weakref.finalize(self, _release_in_background, self._reservation)
        self._finalizer.atexit = False

    @property
    def group(self) -> WorkerGroup:
        """The present gang; while it starts again, the broken one."""
        if self._group is None:
            raise RuntimeError("the gang was not started: call start() first")
        return self._group

    @property
    def spec(self) -> EngineSpec:
        """What the ranks run, which is another way than the one that was asked for if that is not right here."""
        return self._descent.spec

    @property
    def failed_ways(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Ways to run the model that are not right here, and what differed: see `VerificationError.attempts`."""
        return self._descent.attempts

    @property
    def broken(self) -> bool:
        """Whether there is no gang that can take calls."""
        return self._group is None or self._group.broken

    @property
    def num_restarts(self) -> int:
        """Restarts so far, also those that were refunded."""
        return self._restarts.num_restarts

    @property
    def history(self) -> tuple[str, ...]:
        """The last failures, oldest first, a line each: when, phase, causes in short, seconds until it was back."""
        return self._history.lines

    def start(self) -> WorkerGroup:
        """Start the gang. A start that fails is tried again within the budget, unless that would be in vain.

        Raises:
            ConfigurationError, CheckpointError: (as causes of a `WorkerGroupError`) What is wrong stays wrong.
            ClusterCapacityError: The cluster had no room for the gang in time.
            VerificationError: What it generates is not right, in no way to run it (or the first, if strict).
            WorkerGroupError: The gang was shut down meanwhile, has lost its placement group to the end of its job,
                or an engine failed several times alike.
            RestartsExhaustedError: It failed more often than it may.
        """
        with self._lock:
            return self._group if self._group is not None else self._bring_up(None)

    def restart(self, error: WorkerGroupError) -> WorkerGroup:
        """End what is left of the broken gang and start it again. If it is not broken, it stays.

        All its processes are gone before the first new one starts, and so is what they had on GPUs.

        Args:
            error: How it failed, for the history.

        Raises:
            ClusterCapacityError, VerificationError, WorkerGroupError, RestartsExhaustedError: As `start`. The gang has
                then ended for good and gave everything back; further calls raise the same.
        """
        with self._lock:
            if self._group is not None and not self._group.broken:
                return self._group
            known = self._group.failure if self._group is not None else None
            return self._bring_up(known or error)

    def answered(self) -> None:
        """Say that the gang made progress: its next restart waits for nothing."""
        self._num_in_vain = 0

    def refund(self, num_restarts: int) -> None:
        """Say that restarts found out which row kills the gang: they do not count against the budgets."""
        self._restarts.refund(num_restarts)

    def run(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the engine on every rank; see `WorkerGroup.run`."""
        return self.group.run(method, *args, **kwargs)

    def shutdown(self) -> None:
        """End every process and give the placement group back; idempotent. Ends a start or restart, too."""
        self._stopped.set()
        if (starting := self._starting) is not None:
            starting.abort()
        if (group := self._group) is not None:
            group.shutdown()  # a call that runs, now; not after a restart that waits for the lock
        with self._lock:
            self._close()

    def __enter__(self) -> GangSupervisor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.shutdown()

    def _bring_up(self, failure: WorkerGroupError | None) -> WorkerGroup:
        num_equal = 1
        try:
            while True:
                self._require_open()
                if failure is not None:
                    self._prepare(failure)
                try:
                    return self._start_once()
                except WorkerGroupError as error:
                    self._require_open(error)
                    if self._descent.goes_on(error):
                        logger.info("%s: %s", self.name, error)  # of which the next line is the gist
                        self._say_descent()
                        failure = None
                        continue
                    num_equal = num_equal + 1 if failure and is_same_failure(failure, error) else 1
                    hopeless = self._group is None and num_equal >= _NUM_EQUAL_STARTS
                    if hopeless or can_only_repeat(error):
                        raise
                    failure = error
        except BaseException as error:
            self._end = error if isinstance(error, RaydsinferError) else self._end
            self._stopped.set()
            self._close()
            raise

    def _say_descent(self) -> None:
        line = self._descent.note
        logger.warning("%s: %s", self.name, line)
        self._tell(line)

    def _prepare(self, failure: WorkerGroupError) -> None:
        """All that comes between a failure and the next start."""
        told = in_short(failure)
        self._history.failed(told)
        if self._group is not None:
            self._group.shutdown()
        try:
            self._restarts.take(self.history)
        except RestartsExhaustedError as error:
            raise error from failure
        wait_s = backoff_s(self._num_in_vain, self._recovery.restart_backoff_s)
        self._num_in_vain += 1
        line = f"restart {self.num_restarts} after {told}; {self._restarts.num_left} left"
        line += f"; waiting {wait_s:g} s" if wait_s else ""
        logger.warning("%s: %s", self.name, line)
        self._tell(line)
        self._stopped.wait(wait_s)
        self._require_open(failure)
        if not self._reservation.is_whole(self._starting.lost_nodes if self._starting is not None else ()):
            # Ray would put lost bundles elsewhere, when it notices; a new group has the choice of all that is there.
            self._reservation.release()

    def _start_once(self) -> WorkerGroup:
        starting = self._starting = Start(self.spec, self._reservation, self._gang_config, self._tell)
        if self._stopped.is_set():  # shutdown may have looked before there was anything to abort
            starting.abort()
        with ExitStack() as resources:
            starting.run(resources)
            self._group = WorkerGroup(starting, resources.pop_all())
        self._history.back()
        self._descent.arrived()
        return self._group

    def _require_open(self, failure: WorkerGroupError | None = None) -> None:
        if not self._stopped.is_set():
            return
        if self._end is not None:
            raise copy.copy(self._end) from failure
        cause = RuntimeError("the gang was shut down")
        raise WorkerGroupError(gang=self.name, phase="restart", causes={0: cause}) from failure

    def _close(self) -> None:
        if self._group is not None:
            self._group.shutdown()
        self._finalizer.detach()
        _release(self._reservation)


def _release(reservation: Reservation) -> None:
    # After ray.shutdown() there is nothing left, and any call would start a new local cluster.
    if ray.is_initialized():
        reservation.release()


def _release_in_background(reservation: Reservation) -> None:
    threading.Thread(target=_release, args=(reservation,), name="gang-release", daemon=True).start()
