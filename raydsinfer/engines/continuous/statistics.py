"""Where a continuous engine's time goes, and what it did."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields


@dataclass
class Statistics:
    """Counts since the engine was loaded.

    Args:
        schedule_s: Seconds of planning steps.
        launch_s: Seconds of preparing steps and handing their kernels to the device.
        wait_s: Seconds in which the host waited for the device.
        commit_s: Seconds of looking at new tokens: ends, stop strings, answers.
        steps: Forward passes.
        graph_steps: Of these, replayed from a CUDA graph.
        eager_steps: Of these, launched kernel by kernel.
        prefill_steps: Of these, with some prefill.
        prefill_tokens: Tokens of prompts that were computed.
        decode_tokens: Tokens of decode rows.
        running_sum: Sequences at work, summed over the steps.
        preemptions: Sequences that lost their pages to others and were computed again.
        shared_tokens: Tokens of prompts that were found in the cache.
    """

    schedule_s: float = 0.0
    launch_s: float = 0.0
    wait_s: float = 0.0
    commit_s: float = 0.0
    steps: int = 0
    graph_steps: int = 0
    eager_steps: int = 0
    prefill_steps: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    running_sum: int = 0
    preemptions: int = 0
    shared_tokens: int = 0

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds that a block takes to a phase: ``schedule``, ``launch``, ``wait`` or ``commit``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            name = f"{phase}_s"
            setattr(self, name, getattr(self, name) + time.perf_counter() - started)

    def reset(self) -> None:
        """Count from nothing."""
        for field in fields(self):
            setattr(self, field.name, field.default)

    def as_dict(self) -> dict[str, float]:
        """All counts by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
