"""Hearing from Ray Data how a lazy data set's execution ended."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.data import DataContext


class RunningExecutions:
    """Counts the executions of one data set, and gives its gangs back when none runs any more.

    Ray Data's actors may live on, idle, and renew their leases: after a success as long as somebody
    holds their blocks, so that Ray could make a lost one again; after a failure until the driver's
    garbage collector finds them, which in a notebook that keeps the last traceback may be never.

    Args:
        keeper: The `GangKeeper` of the data set's gangs; None in copies that went to other processes.
    """

    def __init__(self, keeper: ActorHandle[Any] | None = None) -> None:
        self._keeper, self._lock = keeper, threading.Lock()
        self._num_running = 0

    def started(self) -> None:
        """An execution began."""
        with self._lock:
            self._num_running += 1
            if self._num_running == 1:
                self._tell("begin")

    def ended(self) -> None:
        """An execution ended, well or not."""
        with self._lock:
            self._num_running -= 1
            if self._num_running == 0:
                self._tell("end")
                self._tell("drain")

    def _tell(self, method: str) -> None:
        # Calls from one process reach an actor in order.
        if self._keeper is not None and ray.is_initialized():
            getattr(self._keeper, method).remote()

    def __reduce__(self) -> tuple[Any, ...]:
        # Ray Data sends its context, and what hangs on it, to every task. Only the driver's copy counts.
        return RunningExecutions, ()


def watch_executions(context: DataContext, keeper: ActorHandle[Any]) -> None:
    """Give a keeper's gangs back when no execution under this context runs any more.

    Args:
        context: Of the data set; data sets made from it inherit it.
        keeper: The `GangKeeper` of its gangs.
    """
    running = RunningExecutions(keeper)

    class ReleaseGangs:
        def before_execution_starts(self, executor: Any) -> None:
            running.started()

        def on_execution_step(self, executor: Any) -> None:
            pass

        def after_execution_succeeds(self, executor: Any) -> None:
            running.ended()

        def after_execution_fails(self, executor: Any, error: Exception) -> None:
            running.ended()

    if hasattr(context, "custom_execution_callback_classes"):
        context.custom_execution_callback_classes.append(ReleaseGangs)  # type: ignore[arg-type]  # same methods
        return
    from ray.data._internal.execution import execution_callback  # Ray before 2.54 has no public way

    execution_callback.add_execution_callback(ReleaseGangs(), context)  # type: ignore[attr-defined]
