"""Restarts of one gang, against its own budget and its job's."""

from __future__ import annotations

import threading
import time
from typing import Any

from ray.actor import ActorHandle

from raydsinfer.config import RecoveryConfig
from raydsinfer.errors import RestartsExhaustedError
from raydsinfer.groups.budget import Budget
from raydsinfer.groups.keeper_line import KeeperLine

_LIMITS = ("max_restarts", "max_job_restarts", "restart_window_s")


class Restarts:
    """Counts. Thread-safe.

    Args:
        gang: Name of the gang.
        recovery_config: The limits.
        keeper: A `GangKeeper` actor that counts for all gangs of the job; None: nobody does.

    Attributes:
        num_restarts: All so far, also those that do not count.
    """

    def __init__(self, gang: str, recovery_config: RecoveryConfig, keeper: ActorHandle[Any] | None) -> None:
        self.num_restarts = 0
        self._gang, self._config = gang, recovery_config
        # Without it a gang's own budget still ends what fails for ever.
        self._keeper = KeeperLine(keeper, gang)
        self._own, self._lock = Budget(), threading.Lock()

    @property
    def num_left(self) -> int:
        """Restarts that the gang may still have, if its job has them."""
        taken = self._own.num_taken(self._config.restart_window_s, time.monotonic())
        return max(0, self._config.max_restarts - taken)

    def take(self, history: tuple[str, ...]) -> None:
        """Count one more.

        Args:
            history: For the error.

        Raises:
            RestartsExhaustedError: There is none left.
        """
        with self._lock:
            own, job, window_s = (getattr(self._config, name) for name in _LIMITS)
            if not self._own.take(own, window_s, time.monotonic()):
                raise RestartsExhaustedError(gang=self._gang, limit=own, setting="max_restarts", history=history)
            if self._keeper.ask("take_restart", job, window_s) is False:
                self._own.refund(1)
                raise RestartsExhaustedError(gang=self._gang, limit=job, setting="max_job_restarts", history=history)
            self.num_restarts += 1

    def refund(self, num_restarts: int) -> None:
        """Some did not count."""
        with self._lock:
            self._own.refund(num_restarts)
            self._keeper.ask("refund_restarts", num_restarts)
