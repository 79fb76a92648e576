"""Asks the ranks of a call, while it lasts, how far they are."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any

import ray

from raydsinfer.groups.deadlines import Lapse, Patience, StepLimits

_POLL_S = 1.0  # calls that are shorter are not asked about at all
_ANSWER_S = 0.25  # after which a round is judged; who answers later is judged with the next
_OVERSLEPT_S = 2.0  # a process that was stopped, or a machine that was suspended


class PulseWatch:
    """Asks all ranks that have not answered once a second; each has one question open at most.

    Args:
        actors: `Worker` actors by world rank.
        limits: Of the call.
    """

    def __init__(self, actors: Sequence[Any], limits: StepLimits) -> None:
        now = time.monotonic()
        self._actors = actors
        self._patience = Patience(range(len(actors)), limits, now)
        self._open: dict[Any, int] = {}
        self._has_asked = False
        self.next_at = now + _POLL_S

    @property
    def open(self) -> list[Any]:
        """References of answers that are still to come."""
        return list(self._open)

    def take(self, ref: Any) -> None:
        """One of the `open` answers is there."""
        rank = self._open.pop(ref)
        try:
            self._patience.heard(rank, ray.get(ref), time.monotonic())
        except Exception:  # it died, which the call's own answer tells
            self._patience.unable(rank)

    def done(self, rank: int) -> None:
        """A rank has answered the call."""
        self._patience.done(rank, time.monotonic())

    def tick(self, pending: Collection[int]) -> dict[int, Lapse]:
        """Call it when it is `next_at`.

        Args:
            pending: Ranks that have not answered the call.

        Returns:
            World rank → limit exceeded, if there are such ranks.
        """
        now = time.monotonic()
        if now - self.next_at > _OVERSLEPT_S:
            self._patience.overslept(now - self.next_at)
        if self._has_asked:
            self._has_asked, self.next_at = False, now + _POLL_S - _ANSWER_S
            return self._patience.lapses(now)
        for rank in set(pending) - set(self._open.values()):
            self._patience.asked(rank, now)
            self._open[self._actors[rank].pulse.remote()] = rank
        self._has_asked, self.next_at = True, now + _ANSWER_S
        return {}
