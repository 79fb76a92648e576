"""How far an engine's calls are: counted by the thread that works, read by others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from raydsinfer.engines.base import Pulse


class Steps:
    """Counts the calls of an engine and the steps of each.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now = Pulse()
        self._last = 0.0

    @contextmanager
    def call(self, phase: str) -> Iterator[None]:
        """A call of the engine, for the time of a block.

        Args:
            phase: What it does.
        """
        slowest = self._now.slowest_step_s
        self._now = Pulse(phase=phase, num_calls=self._now.num_calls + 1, slowest_step_s=slowest)
        try:
            yield
        finally:
            # Replaced as a whole here and below: a reader in another thread never sees half of an update.
            self._now = Pulse(num_calls=self._now.num_calls, slowest_step_s=self._now.slowest_step_s)

    def enter(self, phase: str) -> None:
        """The call is at something else now."""
        now = self._now
        self._now = Pulse(phase=phase, num_calls=now.num_calls, slowest_step_s=now.slowest_step_s)

    def count(self) -> None:
        """A step is done. The first of a call says nothing of how long steps take: it may compile kernels."""
        now, last, self._last = self._now, self._last, self._clock()
        slowest = max(now.slowest_step_s, self._last - last) if now.num_steps else now.slowest_step_s
        self._now = Pulse(phase=now.phase, num_calls=now.num_calls, num_steps=now.num_steps + 1, slowest_step_s=slowest)

    def read(self) -> Pulse:
        """Where it is now."""
        return self._now


class Phases:
    """The parts of a call, one after the other.

    Args:
        steps: Told what the call is at.

    Attributes:
        seconds: Part → seconds that it took.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """One part, for the time of a block."""
        self._steps.enter(name)
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started
