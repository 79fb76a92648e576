"""What other processes say while they work, on its way to the terminal: lines of gangs, progress of nodes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import ray

_POLL_S = 0.5  # a person does not see more; one small call to a process of this job
_ANSWER_S = 5.0
_MOST_WAITING = 200  # of messages that can wait; those of commands are up to 64 KiB each


class _Board:
    """An actor that holds messages until they were read."""

    def __init__(self) -> None:
        self._messages: list[tuple[float, Any]] = []
        self._num_read = 0

    def tell(self, message: Any) -> None:
        self._messages.append((time.time(), message))

    def offer(self, message: Any) -> bool:
        if len(self._messages) >= _MOST_WAITING:
            return False
        self.tell(message)
        return True

    def since(self, number: int) -> list[tuple[float, Any]]:
        # Who asks for what comes after has what came before: an answer that was lost is given again.
        del self._messages[: number - self._num_read]
        self._num_read = number
        return self._messages


class Teller:
    """The `on_progress` of predictors in other processes; fire and forget.

    Args:
        board: Handle of the actor.
    """

    def __init__(self, board: Any) -> None:
        self._board = board

    def __call__(self, message: Any) -> None:
        self._board.tell.remote(message)

    def in_turn(self, message: Any) -> None:
        """Tell, and wait as long as too much is unread: for those who could flood the board."""
        while not ray.get(self._board.offer.remote(message)):
            time.sleep(_POLL_S / 5)


class Board:
    """Starts the actor and passes on each message that comes in. A context manager.

    Args:
        on_message: Gets the time (seconds since the epoch) and the message, in a thread.
        resources: Ray resources that keep the actor on this node, whose clock it then has.
    """

    def __init__(self, on_message: Callable[[float, Any], None], resources: dict[str, float]) -> None:
        actor: Any = ray.remote(num_cpus=0, resources=resources)(_Board)
        self._actor, self._on_message, self._seen = actor.remote(), on_message, 0
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
                messages = ray.get(self._actor.since.remote(self._seen), timeout=_ANSWER_S)
            except ray.exceptions.RayError:
                return  # the driver's own loop reports what is wrong with the cluster
            self._seen += len(messages)
            for at, message in messages:
                self._on_message(at, message)
