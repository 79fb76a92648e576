"""How many restarts were taken of those that there are: pure."""

from __future__ import annotations

from collections import deque

_LONGEST_BACKOFF_S = 60.0


class Budget:
    """Restarts of a gang, or of all gangs of a job, of which there may be so many within some time.

    A job that runs for a weekend on machines that fail now and then makes progress; one that only starts again
    does not.
    """

    def __init__(self) -> None:
        self._taken_at: deque[float] = deque()

    def num_taken(self, window_s: float, now_s: float) -> int:
        """Restarts that count: those that were taken within the last `window_s` seconds before `now_s`."""
        while self._taken_at and self._taken_at[0] <= now_s - window_s:
            self._taken_at.popleft()
        return len(self._taken_at)

    def take(self, limit: int, window_s: float, now_s: float) -> bool:
        """Take one more, if `limit` allows it; whether it did."""
        if self.num_taken(window_s, now_s) >= limit:
            return False
        self._taken_at.append(now_s)
        return True

    def refund(self, num_restarts: int) -> None:
        """Give the last ones back; never more than were taken."""
        for _ in range(min(num_restarts, len(self._taken_at))):
            self._taken_at.pop()


def backoff_s(num_in_vain: int, first_s: float) -> float:
    """Seconds to wait before a restart.

    Args:
        num_in_vain: Restarts before it, since the gang last answered anything.
        first_s: `RecoveryConfig.restart_backoff_s`: seconds after one restart in vain; doubled for each further one.
    """
    if num_in_vain == 0:
        return 0.0
    # The exponent has a limit of its own: 2.0**1100 is no float.
    return min(_LONGEST_BACKOFF_S, first_s * 2.0 ** min(num_in_vain - 1, 64))
