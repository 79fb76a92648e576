"""What serving needs of a gang."""

from __future__ import annotations

from typing import Any, Protocol


class Gang(Protocol):
    """What is needed of a `WorkerGroup`."""

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
