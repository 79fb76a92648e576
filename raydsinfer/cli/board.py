"""What the gangs say while they start, on its way from their processes to the terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import ray

_POLL_S = 0.5  # a person does not see more; one small call to a process of this job
_ANSWER_S = 5.0


class _Board:
    """An actor that collects lines."""

    def __init__(self) -> None:
        self._lines: list[tuple[float, str]] = []

    def tell(self, line: str) -> None:
        self._lines.append((time.time(), line))

    def since(self, number: int) -> list[tuple[float, str]]:
        return self._lines[number:]


class Teller:
    """The `on_progress` of predictors in other processes; fire and forget.

    Args:
        board: Handle of the actor.
    """

    def __init__(self, board: Any) -> None:
        self._board = board

    def __call__(self, line: str) -> None:
        self._board.tell.remote(line)


class Board:
    """Starts the actor and passes on each line that comes in. A context manager.

    Args:
        on_line: Gets the time (seconds since the epoch) and the text, in a thread.
        resources: Ray resources that keep the actor on this node, whose clock it then has.
    """

    def __init__(self, on_line: Callable[[float, str], None], resources: dict[str, float]) -> None:
        actor: Any = ray.remote(num_cpus=0, resources=resources)(_Board)
        self._actor, self._on_line, self._seen = actor.remote(), on_line, 0
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="board", daemon=True)
        self.teller = Teller(self._actor)

    def __enter__(self) -> Board:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=5 * _POLL_S)
        if kind is None:
            self.refresh()
        ray.kill(self._actor)

    def _watch(self) -> None:
        while not self._stop.wait(_POLL_S):
            self.refresh()

    def refresh(self) -> None:
        """Pass on what has come in by now."""
        with self._lock:
            try:
                lines = ray.get(self._actor.since.remote(self._seen), timeout=_ANSWER_S)
            except ray.exceptions.RayError:
                return  # the driver's own loop reports what is wrong with the cluster
            self._seen += len(lines)
            for at, line in lines:
                self._on_line(at, line)
