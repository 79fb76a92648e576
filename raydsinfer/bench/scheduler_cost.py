"""What the scheduler of the continuous engine costs the host, a step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from raydsinfer.engines.continuous.plan import Limits, StepPlan
from raydsinfer.engines.continuous.scheduler import Scheduler

_PROMPT_TOKENS, _MAX_NEW_TOKENS, _PAGE_SIZE = 128, 128, 16
DEFAULT_LOADS = ((1, 0), (16, 1_000), (64, 10_000), (256, 1_000), (256, 100_000))


@dataclass(frozen=True, kw_only=True)
class SchedulerCost:
    """Host time of `plan` and `commit` together.

    Args:
        num_running: Sequences running.
        num_waiting: Sequences waiting, about: it falls by those that start.
        memory_bound: Whether the KV cache limited how many run, rather than the slots.
        num_steps: Steps that were measured.
        num_started: Sequences that started in these steps, each in place of one that ended.
        median_us: Microseconds a step, median.
        mean_us: Mean.
        p99_us: 99th percentile.
        max_us: The slowest, interruptions of the process included.
    """

    num_running: int
    num_waiting: int
    memory_bound: bool = False
    num_steps: int
    num_started: int
    median_us: float
    mean_us: float
    p99_us: float
    max_us: float


def scheduler_costs(
    loads: Sequence[tuple[int, int]] = DEFAULT_LOADS, *, num_steps: int = 1000, memory_bound: bool = False
) -> list[SchedulerCost]:
    """Measure steady states, planning each step before the one ahead of it is committed.

    Args:
        loads: Pairs of running and waiting sequences.
        num_steps: Steps to measure for each.
        memory_bound: The KV cache is full before the slots are, which asks for an estimate at every admission,
            and now and then for a preemption. About `num_running` run then.
    """
    return [_measure(running, waiting, num_steps, memory_bound) for running, waiting in loads]


def _measure(num_running: int, num_waiting: int, num_steps: int, memory_bound: bool) -> SchedulerCost:
    full = -(-(_PROMPT_TOKENS + _MAX_NEW_TOKENS) // _PAGE_SIZE)
    average = -(-(_PROMPT_TOKENS + _MAX_NEW_TOKENS // 2) // _PAGE_SIZE)
    limits = Limits(
        max_running=2 * num_running if memory_bound else num_running,
        max_step_tokens=2048,
        num_pages=max(full, num_running * (average if memory_bound else full)),
        page_size=_PAGE_SIZE,
    )
    load = _Load(Scheduler(limits))
    load.add(num_running + num_waiting)
    while load.num_steps < 2 * _MAX_NEW_TOKENS:  # until the ends of sequences are spread over the steps
        load.step()
    load.times_us.clear()
    load.num_started = 0
    for _ in range(num_steps):
        load.add(num_running + num_waiting - load.scheduler.num_running - load.scheduler.num_waiting)
        load.step()
    times = sorted(load.times_us)
    return SchedulerCost(
        num_running=load.scheduler.num_running,
        num_waiting=load.scheduler.num_waiting,
        memory_bound=memory_bound,
        num_steps=num_steps,
        num_started=load.num_started,
        median_us=statistics.median(times),
        mean_us=statistics.fmean(times),
        p99_us=times[int(0.99 * len(times))],
        max_us=times[-1],
    )


class _Load:
    """Drives a scheduler with made-up tokens; a few sequences stop early, so that their ends spread out."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.times_us: list[float] = []
        self.num_steps = self.num_started = 0
        self._num_added = 0
        self._in_flight: StepPlan | None = None

    def add(self, num: int) -> None:
        for _ in range(num):
            first = self._num_added
            self.scheduler.add(first, range(first, first + _PROMPT_TOKENS), _MAX_NEW_TOKENS)
            self._num_added += 1

    def step(self) -> None:
        """Plan a step, then commit the one before it; only these two are timed."""
        started = time.perf_counter()
        plan = self.scheduler.plan()
        seconds = time.perf_counter() - started
        ended: tuple[int, ...] = ()
        if self._in_flight is not None:
            sampling = [chunk.sequence for chunk in self._in_flight.chunks if chunk.samples]
            tokens = dict.fromkeys(sampling, 7)
            stopped = [number for number in sampling if (number * 7919 + self.num_steps) % 512 == 0]
            started = time.perf_counter()
            ended = self.scheduler.commit(self._in_flight, tokens, stopped)
            seconds += time.perf_counter() - started
        for number in ended:
            self.scheduler.take(number)
        self.times_us.append(1e6 * seconds)
        self.num_started += len(plan.admitted) if plan is not None else 0
        self.num_steps += 1
        self._in_flight = plan
