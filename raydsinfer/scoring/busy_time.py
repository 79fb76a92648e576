"""How long a gang had something to do, where its batches overlap: pure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class BusyTime:
    """Time in which at least one batch was under way. Thread-safe.

    Args:
        clock: Seconds, never backwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._num_open, self._since_s, self._seconds = 0, 0.0, 0.0

    @contextmanager
    def batch(self) -> Iterator[None]:
        """A batch is under way."""
        self._change(1)
        try:
            yield
        finally:
            self._change(-1)

    def take(self) -> float:
        """Seconds since the last call; a second counts once, however many batches there were in it."""
        with self._lock:
            self._add()
            seconds, self._seconds = self._seconds, 0.0
            return seconds

    def _change(self, by: int) -> None:
        with self._lock:
            self._add()
            self._num_open += by

    def _add(self) -> None:
        now_s = self._clock()
        if self._num_open:
            self._seconds += now_s - self._since_s
        self._since_s = now_s
