"""How many rows at once the memory holds, as far as failures have told."""

from __future__ import annotations

import logging
import threading

logger = logging.getLogger(__name__)


class RowLimit:
    """Halved when the memory was not enough, and kept. Thread-safe.

    Args:
        max_running: Rows that an engine works on at once, however many it has.

    Attributes:
        most: Rows that may be on the gang at once; None: any number.
    """

    def __init__(self, max_running: int) -> None:
        self.most: int | None = None
        self._max_running = max_running
        self._lock = threading.Lock()

    def lower(self, seen: int | None, num_on_gang: int) -> bool:
        """Halve the limit, or what was on the gang if that was fewer.

        Args:
            seen: The limit when the rows were sent. If it is another now, somebody has lowered it meanwhile.
            num_on_gang: Rows that were too many.

        Returns:
            Whether fewer rows will be sent from now on: not if it was one alone.
        """
        with self._lock:
            if self.most != seen:
                return True
            rows = min(num_on_gang, self._max_running, seen or num_on_gang)
            if rows <= 1:
                return False
            self.most = rows // 2
            logger.warning("out of memory with %d rows at once: %d from now on", rows, self.most)
            return True

    def restore(self, most: int | None) -> None:
        """Go back to an earlier limit: it was not the number of rows, but one of them."""
        with self._lock:
            if self.most is not None and (most is None or most > self.most):
                self.most = most
                logger.warning("one row alone was out of memory: %s rows at once again", most or "any number of")
