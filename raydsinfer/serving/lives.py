"""The lives of a gang, from one start to the next: whoever notices first that one is over begins another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from raydsinfer.errors import WorkerGroupError
from raydsinfer.serving.failures import fresh
from raydsinfer.serving.gang import Gang, Supervisor
from raydsinfer.serving.service import Service


@dataclass(eq=False)
class Life:
    """One life.

    Args:
        number: Counts up from 0.
        gang: The gang.
        service: How it answers.
        has_answered: Whether it has answered anything.
    """

    number: int
    gang: Gang
    service: Service
    has_answered: bool = False


class Lives:
    """One life after the other. Thread-safe.

    Args:
        supervisor: Starts the gang again.
        make_service: Called for each life.
    """

    def __init__(self, supervisor: Supervisor, make_service: Callable[[Gang], Service]) -> None:
        self._supervisor, self._make_service = supervisor, make_service
        self._lock = threading.Lock()
        self._present = Life(0, supervisor.group, make_service(supervisor.group))
        self._refunded: set[int] = set()
        self._owed: set[int] = set()
        self._has_answered = False
        self._failure: Exception | None = None

    def present(self) -> Life:
        """The present life; waits for it to begin.

        Raises:
            RestartsExhaustedError: There will be no other, or what else a restart ended with.
        """
        with self._lock:
            self._require_going_on()
            return self._present

    def end(self, life: Life, error: WorkerGroupError) -> None:
        """Begin another life, unless somebody has.

        Args:
            life: The one that is over, or that is to be over.
            error: Why.

        Raises:
            RestartsExhaustedError: There will be no other, or what else a restart ended with.
            WorkerGroupError: The gang was shut down.
        """
        with self._lock:
            self._require_going_on()
            if life is not self._present:
                return
            life.gang.shutdown()
            try:
                gang = self._supervisor.restart(error)
            except Exception as failure:
                self._failure = failure
                raise
            self._present = Life(life.number + 1, gang, self._make_service(gang))

    def answered(self, life: Life) -> None:
        """A request was answered."""
        if not life.has_answered:
            life.has_answered = True
            self._supervisor.answered()
            with self._lock:
                self._has_answered = True
                owed, self._owed = self._owed, set()
            self.refund(owed)

    def refund_if_answers(self, number: int) -> None:
        """The restart after this life does not count, if any life has ever answered anything; or once one does."""
        with self._lock:
            if not self._has_answered:
                self._owed.add(number)
                return
        self.refund([number])

    def refund(self, numbers: Iterable[int]) -> None:
        """The ends of these lives found rows that kill: the restarts after them do not count. Each once."""
        with self._lock:
            new = set(numbers) - self._refunded
            self._refunded |= new
        if new:
            self._supervisor.refund(len(new))

    def shutdown(self) -> None:
        """End the present life, for good. Calls in other threads end with `WorkerGroupError`."""
        self._supervisor.shutdown()
        self._present.service.join()

    def _require_going_on(self) -> None:
        if self._failure is not None:
            raise fresh(self._failure)
