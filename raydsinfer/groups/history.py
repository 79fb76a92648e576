"""What became of a gang, a line for each failure."""

from __future__ import annotations

import time
from collections import deque

_MAX_LINES = 100  # restarts that find rows which kill have no limit


class History:
    """The last failures of a gang."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_MAX_LINES)
        self._failed_at = 0.0

    @property
    def lines(self) -> tuple[str, ...]:
        """Oldest first: when, what, and seconds until the gang was back, if it came back."""
        return tuple(self._lines)

    def failed(self, told: str) -> None:
        """The gang failed, now.

        Args:
            told: What happened, in a line of words.
        """
        self._failed_at = time.monotonic()
        self._lines.append(f"{time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())} {told}")

    def back(self) -> None:
        """The gang works again, or for the first time."""
        if self._lines:
            self._lines[-1] += f"; back after {time.monotonic() - self._failed_at:.1f} s"
