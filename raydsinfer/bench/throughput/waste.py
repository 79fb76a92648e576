"""What an engine computed, or kept room for, in vain. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raydsinfer.bench.throughput.runners import static_batches
from raydsinfer.bench.workloads import BenchRequest


@dataclass(frozen=True)
class StaticWaste:
    """Positions that a static engine computes.

    Args:
        padding: In front of shorter prompts.
        idle: New tokens of rows that were done, until the longest row of their batch was.
        computed: All of them, useful ones included.
    """

    padding: int
    idle: int
    computed: int

    @property
    def share(self) -> float:
        """Of all that was computed."""
        return (self.padding + self.idle) / self.computed


def static_waste(requests: Sequence[BenchRequest], max_batch_size: int) -> StaticWaste:
    """What batches of whole rows cost, see `static_batches`."""
    padded = new = 0
    for batch in static_batches(requests, max_batch_size):
        padded += len(batch) * max(len(requests[index].prompt) for index in batch)
        new += len(batch) * max(requests[index].new_tokens for index in batch)
    return StaticWaste(
        padding=padded - sum(len(request.prompt) for request in requests),
        idle=new - sum(request.new_tokens for request in requests),
        computed=padded + new,
    )


def idle_share(requests: Sequence[BenchRequest], num_steps: int, max_running: int) -> float:
    """The share of places in all steps of a continuous engine that gave no token.

    A place that reads a prompt gives none either, and neither do those that the last requests leave.

    Args:
        requests: All of the workload.
        num_steps: Forward passes that it took.
        max_running: Sequences that may run at once; more than there are requests do not count.
    """
    places = num_steps * min(max_running, len(requests))
    return 1 - sum(request.new_tokens for request in requests) / places


def page_waste(requests: Sequence[BenchRequest], page_size: int) -> float:
    """The share of the held KV cache that no token fills, if a sequence holds no page before it needs it.

    Over the life of each request: after its prompt, and after each new token but the last, which is never read.

    Args:
        requests: All of the workload.
        page_size: Tokens of a page.
    """
    filled = held = 0
    for request in requests:
        for length in range(len(request.prompt), request.num_tokens):
            filled += length
            held += -(-length // page_size) * page_size
    return 1 - filled / held
