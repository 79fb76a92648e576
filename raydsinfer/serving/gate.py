"""A gate that many may pass together, or one alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Shared by those who work together; exclusive for one who must know that nobody else does.

    Who wants to be alone comes before those who wait to share, or it would wait for ever.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_inside = 0
        self._num_alone_waiting = 0
        self._alone_inside = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Be inside with others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone_inside and not self._num_alone_waiting)
            self._num_inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_inside -= 1
                self._changed.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Be inside alone."""
        with self._changed:
            self._num_alone_waiting += 1
            try:
                self._changed.wait_for(lambda: not self._alone_inside and not self._num_inside)
                self._alone_inside = True
            finally:
                self._num_alone_waiting -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._alone_inside = False
                self._changed.notify_all()
