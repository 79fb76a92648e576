"""How far a load has come: written by the thread that loads, read by others."""

from __future__ import annotations

import threading
import time

from raydsinfer.engines.base import LoadProgress


class Meter:
    """Counts the bytes of one phase after the other."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._now = LoadProgress()
        self._lock = threading.Lock()  # several threads add

    def start(self, phase: str, bytes_total: int = 0) -> None:
        """Begin a phase; its total may become known later, through `reach`."""
        self._started = time.monotonic()
        self._now = LoadProgress(phase=phase, bytes_total=bytes_total)

    def add(self, num_bytes: int) -> None:
        """Count bytes that were just done."""
        with self._lock:
            self.reach(self._now.bytes_done + num_bytes, self._now.bytes_total)

    def reach(self, bytes_done: int, bytes_total: int) -> None:
        """Set both counts."""
        seconds = time.monotonic() - self._started
        # Replaced as a whole: a reader in another thread never sees half of an update.
        self._now = LoadProgress(self._now.phase, bytes_done, bytes_total, seconds)

    def read(self) -> LoadProgress:
        """Where it is now."""
        return self._now
