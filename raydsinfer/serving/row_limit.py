"""How much at once the memory holds, as far as failures have told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from raydsinfer.serving.failures import FailedCall, Way

logger = logging.getLogger(__name__)


class RowLimit:
    """Halved when the memory was not enough, and kept. Thread-safe.

    Args:
        way: What is limited, for the log.
        max_running: Most that an engine works on at once, however much it has; None: all that it has.

    Attributes:
        most: Rows of `advance`, or sequences of `generate`, that may be on the gang at once; None: any number.
    """

    def __init__(self, way: Way, max_running: int | None = None) -> None:
        self.most: int | None = None
        self._way, self._max_running = way, max_running
        self._lock = threading.Lock()

    def lower(self, seen: int | None, size: int) -> bool:
        """Halve the limit, or what was on the gang if that was fewer.

        Args:
            seen: The limit when the rows were sent. If it is another now, somebody has lowered it meanwhile.
            size: Rows or sequences that were too many.

        Returns:
            Whether fewer will be sent from now on: not if it was one alone.
        """
        with self._lock:
            if self.most != seen:
                return True
            size = min(size, self._max_running or size, seen or size)
            if size <= 1:
                return False
            self.most = size // 2
            logger.warning(
                "%s: out of memory with %d %s at once: %d from now on", self._way, size, self._unit, self.most
            )
            return True

    def restore(self, most: int | None) -> None:
        """Go back to an earlier limit: it was not the number of rows, but one of them."""
        with self._lock:
            if self.most is not None and (most is None or most > self.most):
                self.most = most
                many = most or "any number of"
                logger.warning("%s: one row alone was out of memory: %s %s at once again", self._way, many, self._unit)

    @property
    def _unit(self) -> str:
        return "rows" if self._way == "advance" else "sequences"


class RowLimits:
    """One limit for each way in which rows are on the gang: what is too much for the one need not be for the other.

    Args:
        max_running: Rows that an engine that batches continuously works on at once.
    """

    def __init__(self, max_running: int) -> None:
        self._of_way: dict[Way, RowLimit] = {
            "advance": RowLimit("advance", max_running),
            "generate": RowLimit("generate"),
        }

    def most(self, way: Way) -> int | None:
        """The present limit of a way."""
        return self._of_way[way].most

    def seen(self) -> dict[Way, int | None]:
        """The present limits."""
        return {way: limit.most for way, limit in self._of_way.items()}

    def lower(self, seen: Mapping[Way, int | None], call: FailedCall) -> bool:
        """Halve the limit of a call's way; see `RowLimit.lower`."""
        return self._of_way[call.way].lower(seen[call.way], call.size)

    def restore(self, most: Mapping[Way, int | None]) -> None:
        """Go back to earlier limits."""
        for way, number in most.items():
            self._of_way[way].restore(number)
