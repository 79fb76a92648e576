"""A predictor with its gang, started when it is needed, by whichever thread needs it first."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

from raydsinfer.errors import RaydsinferError


class GangHolder:
    """Starts a predictor once. After an error that ends the job, every thread gets that error.

    Args:
        start: Starts a predictor; raises `RaydsinferError` if there can be none.
    """

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start, self._lock = start, threading.Lock()
        self._predictor: Any = None
        self._error: RaydsinferError | None = None
        self._counting, self._num_counted = threading.Lock(), 0

    def get(self) -> Any:
        """The predictor.

        Raises:
            RaydsinferError: It did not start, or `fail` was called.
        """
        with self._lock:
            if self._error is not None:
                raise copy.copy(self._error)
            if self._predictor is None:
                try:
                    self._predictor, self._num_counted = self._start(), 0
                except RaydsinferError as error:
                    self._error = error
                    raise
            return self._predictor

    def fail(self, error: RaydsinferError) -> None:
        """Give every later caller this error; the first one counts."""
        self._error = self._error or error

    def discard(self, predictor: Any) -> None:
        """Give a predictor's gang back, so that the next caller starts another; once, whoever asks."""
        with self._lock:
            if predictor is self._predictor:
                self._predictor = None
                predictor.shutdown()

    def restarts(self) -> int:
        """Restarts of the gang since the last call. Does not wait for a gang that starts."""
        predictor = self._predictor
        with self._counting:
            so_far = 0 if predictor is None else predictor.num_restarts
            new, self._num_counted = so_far - self._num_counted, so_far
        return max(0, new)
