"""How many restarts were taken of those that there are: pure."""

from __future__ import annotations

_LONGEST_BACKOFF_S = 60.0


class Budget:
    """Restarts of a gang, or of all gangs of a job.

    Attributes:
        num_taken: Restarts that count.
    """

    def __init__(self) -> None:
        self.num_taken = 0

    def take(self, limit: int) -> bool:
        """Take one more, if `limit` allows it; whether it did."""
        if self.num_taken >= limit:
            return False
        self.num_taken += 1
        return True

    def refund(self, num_restarts: int) -> None:
        """Give some back; never more than were taken."""
        self.num_taken = max(0, self.num_taken - num_restarts)


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
