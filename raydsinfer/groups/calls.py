"""One call to all ranks: the first failure ends the waiting, and every failure gets a readable cause."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from raydsinfer.errors import EngineError, RankDiedError
from raydsinfer.groups.deadlines import Lapse
from raydsinfer.groups.pulse import PulseWatch

# When one rank dies, others may notice first (a broken connection): wait this long after the first
# failure, so that the rank that really failed is among the causes.
GATHER_S = 1.0


@dataclass
class Outcome:
    """What came of a call to all ranks.

    Args:
        answers: World rank → answer.
        failures: World rank → exception, as Ray raised it.
        silent: Ranks that had not answered when the waiting ended.
        lapses: Of these, those that exceeded a limit before the call did.
    """

    answers: dict[int, Any] = field(default_factory=dict)
    failures: dict[int, Exception] = field(default_factory=dict)
    silent: tuple[int, ...] = ()
    lapses: dict[int, Lapse] = field(default_factory=dict)


def gather(refs: Mapping[int, Any], timeout_s: float, watch: PulseWatch | None = None) -> Outcome:
    """Wait for all ranks, or for the first failure, or for a rank that is stuck, or for the deadline.

    Args:
        refs: World rank → object reference of its answer.
        timeout_s: Seconds that all of them have.
        watch: Tells which are stuck; None: nobody asks.
    """
    outcome, pending = Outcome(), {ref: rank for rank, ref in refs.items()}
    deadline = time.monotonic() + timeout_s
    while pending and not outcome.lapses:
        until = deadline if watch is None else min(deadline, watch.next_at)
        open_pulses = [] if watch is None else watch.open
        done, _ = ray.wait([*pending, *open_pulses], num_returns=1, timeout=max(0.0, until - time.monotonic()))
        if done and done[0] in pending:
            rank = pending.pop(done[0])
            if not _take(outcome, rank, done[0]):
                deadline = min(deadline, time.monotonic() + GATHER_S)
            if watch is not None:
                watch.done(rank)
        elif done and watch is not None:
            watch.take(done[0])
        elif until == deadline:
            break
        if watch is not None and time.monotonic() >= watch.next_at:
            outcome.lapses = watch.tick(pending.values())
    outcome.silent = tuple(sorted(pending.values()))
    return outcome


def _take(outcome: Outcome, rank: int, ref: Any) -> bool:
    """Note what came of a rank; False if it is the first failure."""
    try:
        outcome.answers[rank] = ray.get(ref)
    except Exception as error:  # whatever an engine raised, and Ray's own
        outcome.failures[rank] = error
        return len(outcome.failures) > 1
    return True


def disagreements(method: str, digests: Sequence[str]) -> dict[int, BaseException]:
    """World rank → error, for ranks whose answer is not rank 0's."""
    return {
        rank: EngineError(
            doing=method,
            reason="the answer differs from rank 0's, so the ranks no longer compute the same",
            hint="Different library versions or GPUs on the nodes are the usual cause.",
        )
        for rank, digest in enumerate(digests)
        if digest != digests[0]
    }


def cause_of(error: Exception, process: str) -> BaseException:
    """What really went wrong, without Ray's wrapping.

    Args:
        error: What `ray.get` raised.
        process: Process id and node of the rank, for messages.
    """
    if isinstance(error, RayActorError):
        return RankDiedError(process=process, reason=death_reason(str(error)))
    if isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        return error.cause
    return error


def death_reason(text: str) -> str:
    """The telling part of Ray's message about a dead actor, in one line."""
    if "Worker unexpectedly exits with a connection error" in text:
        return (
            "nobody asked it to. It crashed, called exit or was killed; SIGKILL by the kernel for want of "
            "memory is the usual cause (see `dmesg` on the node and the worker's log in Ray's session folder)"
        )
    if "placement group was removed" in text:
        return "its placement group was removed (by shutdown, or because its owner was silent for too long)"
    if detail := re.search(r"Worker exit detail: (.+)", text):
        return detail.group(1).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if not re.match(r"(class_name|actor_id|pid|name|namespace|ip|repr):", line)]
    return " ".join(told[-2:]) if told else "no reason given"
