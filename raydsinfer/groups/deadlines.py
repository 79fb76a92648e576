"""Slow or stuck: what the pulses of ranks mean. Pure: times come from the caller."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from raydsinfer.config import GangConfig
from raydsinfer.engines.base import Pulse

# A step may take so many times as long as the slowest one so far, whatever the settings say.
_TIMES_SLOWEST = 4.0
# Where others are stuck, a process that has been silent for so long is the cause.
_MUTE_S = 2.0


@dataclass(frozen=True, kw_only=True)
class StepLimits:
    """How long a rank may make no progress in a call.

    Args:
        first_step_s: Seconds until the first step.
        step_s: Seconds from one step to the next.
        heartbeat_s: Seconds without an answer to the question for its pulse.
        together: Whether progress of one rank is progress of all, because others may be waiting for it.
    """

    first_step_s: float
    step_s: float
    heartbeat_s: float
    together: bool = False


def limits_for(method: str, config: GangConfig, *, is_warm: bool) -> StepLimits:
    """The limits of a call.

    Args:
        method: The engine's method.
        config: The gang's deadlines.
        is_warm: Whether the engine has answered a call of this method before.
    """
    # Loading is many different things, compilation of kernels among them, and ranks of a node wait for the one that
    # fetches or reshards. A continuous engine has no first token of a call: it goes on where it was.
    going_on = method == "advance" and is_warm
    return StepLimits(
        first_step_s=config.step_timeout_s if going_on else config.first_step_timeout_s,
        step_s=config.first_step_timeout_s if method == "load" else config.step_timeout_s,
        heartbeat_s=config.heartbeat_timeout_s,
        together=method == "load",
    )


@dataclass(frozen=True, kw_only=True)
class Lapse:
    """A rank that exceeded a limit.

    Args:
        kind: ``silent``: its process did not say how far it is; ``stuck``: it said that it is where it was;
            ``late``: the time of the whole call is up.
        limit_s: The limit, in seconds.
        pulse: The last that is known of it.
    """

    kind: Literal["silent", "stuck", "late"]
    limit_s: float
    pulse: Pulse = field(default_factory=Pulse)

    def __str__(self) -> str:
        """What the rank did not do, to stand before "within ... s"."""
        if self.kind == "late":
            return "did not answer"
        if self.kind == "silent":
            return "gave no sign of life"
        done = f"step {self.pulse.num_steps + 1} of " if self.pulse.num_steps else ""
        return f"did not get on with {done}{self.pulse.phase or 'the call'}"


@dataclass
class _Seen:
    changed_at: float
    pulse: Pulse | None = None
    asked_at: float | None = None  # of the question that is open
    overslept_s: float = 0.0  # while it was
    has_moved: bool = False
    lapse: Lapse | None = None


class Patience:
    """Judges the ranks of one call.

    Args:
        ranks: World ranks that were called.
        limits: Of the call.
        now: When they were called, in seconds.
    """

    def __init__(self, ranks: Collection[int], limits: StepLimits, now: float) -> None:
        self._limits = limits
        self._seen = {rank: _Seen(changed_at=now) for rank in ranks}

    def asked(self, rank: int, now: float) -> None:
        """A rank is being asked for its pulse."""
        self._seen[rank].asked_at, self._seen[rank].overslept_s = now, 0.0

    def unable(self, rank: int) -> None:
        """A rank cannot tell its pulse, for a reason that the call will tell."""
        if rank in self._seen:
            self._seen[rank].asked_at = None

    def heard(self, rank: int, pulse: Pulse, now: float) -> None:
        """A rank has answered with its pulse."""
        seen = self._seen.get(rank)
        if seen is None:
            return
        asked_at, seen.asked_at, before, seen.pulse = seen.asked_at or now, None, seen.pulse, pulse
        if pulse.num_steps > 0 if before is None else _place(pulse) != _place(before):
            seen.changed_at, seen.has_moved = now, pulse.num_steps > 0
        since = max(s.changed_at for s in self._seen.values()) if self._limits.together else seen.changed_at
        # What it answers it knew when it was asked, or later: if the caller slept meanwhile, that was not its fault.
        limit_s = self._limit_s(seen)
        seen.lapse = Lapse(kind="stuck", limit_s=limit_s, pulse=pulse) if asked_at - since > limit_s else None

    def done(self, rank: int, now: float) -> None:
        """A rank has answered the call: it is no longer watched."""
        del self._seen[rank]
        if self._limits.together:  # that is progress, too
            for seen in self._seen.values():
                seen.changed_at = now

    def overslept(self, seconds: float) -> None:
        """The caller did not listen for a while: questions that are open have not waited so long."""
        for seen in self._seen.values():
            seen.overslept_s += seconds

    def lapses(self, now: float) -> dict[int, Lapse]:
        """World rank → limit exceeded, of the ranks that seem to be the cause; the others wait for them.

        Those are the ranks that do not answer at all, or else of those that are stuck the ones furthest behind.
        """
        stuck = {rank: seen.lapse for rank, seen in self._seen.items() if seen.lapse is not None}
        if silent := self._silent(now, min(self._limits.heartbeat_s, _MUTE_S) if stuck else self._limits.heartbeat_s):
            return silent
        behind = min((_steps(lapse.pulse) for lapse in stuck.values()), default=(0, 0))
        return {rank: lapse for rank, lapse in stuck.items() if _steps(lapse.pulse) == behind}

    def _silent(self, now: float, limit_s: float) -> dict[int, Lapse]:
        return {
            rank: Lapse(kind="silent", limit_s=limit_s, pulse=seen.pulse or Pulse())
            for rank, seen in self._seen.items()
            if seen.asked_at is not None and now - seen.asked_at - seen.overslept_s > limit_s
        }

    def _limit_s(self, seen: _Seen) -> float:
        slowest = max((s.pulse.slowest_step_s for s in self._seen.values() if s.pulse is not None), default=0.0)
        limit = self._limits.step_s if seen.has_moved else self._limits.first_step_s
        return max(limit, _TIMES_SLOWEST * slowest)


def _place(pulse: Pulse) -> tuple[int, str, int, int]:
    return pulse.num_calls, pulse.phase, pulse.num_steps, pulse.num_bytes


def _steps(pulse: Pulse) -> tuple[int, int]:
    return pulse.num_calls, pulse.num_steps
