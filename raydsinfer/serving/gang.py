"""What serving needs of a gang, and of who starts it again."""

from __future__ import annotations

from typing import Any, Protocol

from raydsinfer.engines.base import LoadReport
from raydsinfer.errors import WorkerGroupError


class Gang(Protocol):
    """What is needed of a `WorkerGroup`."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def load_report(self) -> LoadReport:
        """What rank 0's engine did to load."""
        ...

    @property
    def broken(self) -> bool:
        """Whether it can take no more calls."""
        ...

    def run(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the engine on every rank."""
        ...

    def shutdown(self) -> None:
        """End every process."""
        ...


class Supervisor(Protocol):
    """What is needed of a `GangSupervisor`."""

    @property
    def group(self) -> Gang:
        """The present gang."""
        ...

    def restart(self, error: WorkerGroupError) -> Gang:
        """Tear the gang down and start it again.

        Raises:
            RestartsExhaustedError: It may not be started again.
        """
        ...

    def refund(self, num_restarts: int) -> None:
        """So many restarts found a row that kills: they do not count."""
        ...

    def answered(self) -> None:
        """The gang made progress: the next restart does not wait."""
        ...

    def shutdown(self) -> None:
        """End every process, and a restart that is under way."""
        ...
