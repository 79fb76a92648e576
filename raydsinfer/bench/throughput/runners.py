"""Runs a workload on a loaded engine, batch by batch or continuously."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from raydsinfer.bench.workloads import BenchRequest
from raydsinfer.config import GenerationConfig
from raydsinfer.engines.base import Advance, Completion, GenerateBatch, GenerateRequest
from raydsinfer.errors import EngineError

STEPS_AT_ONCE = 16
"""Steps of a continuous engine between two looks at its answers."""


class GeneratesBatches(Protocol):
    """The part of `Engine` that answers whole batches."""

    def generate(self, batch: GenerateBatch) -> list[list[Completion]]: ...


class Advances(Protocol):
    """The part of `Engine` that batches continuously."""

    def advance(self, requests: Sequence[GenerateRequest], *, num_steps: int) -> Advance: ...


@dataclass(frozen=True)
class Answers:
    """What an engine made of a workload.

    Args:
        token_ids: New tokens of each request, in order.
        num_steps: Forward passes that it took.
    """

    token_ids: tuple[tuple[int, ...], ...]
    num_steps: int


def exactly(num_tokens: int) -> GenerationConfig:
    """Greedy settings for so many new tokens, no more and no fewer."""
    return GenerationConfig(max_new_tokens=num_tokens, min_new_tokens=num_tokens)


def static_batches(requests: Sequence[BenchRequest], max_batch_size: int) -> list[list[int]]:
    """Which requests are generated together, by index: neighbours in the length of their prompts, longest first.

    The number of new tokens plays no part: of real rows nobody knows it before.
    """
    order = sorted(range(len(requests)), key=lambda index: (-len(requests[index].prompt), index))
    return [order[start : start + max_batch_size] for start in range(0, len(order), max_batch_size)]


def static_tokens(requests: Sequence[BenchRequest], max_batch_size: int) -> int:
    """The longest row of `static_batches`: a row is as long as its batch's longest prompt and longest answer."""
    return max(
        max(len(requests[index].prompt) for index in batch) + max(requests[index].new_tokens for index in batch)
        for batch in static_batches(requests, max_batch_size)
    )


def run_static(engine: GeneratesBatches, requests: Sequence[BenchRequest], max_batch_size: int) -> Answers:
    """Batch after batch; each runs until its longest row is done, and rows are cut to what they asked for.

    Raises:
        EngineError: The engine failed, or answered with another number of tokens.
    """
    found: dict[int, tuple[int, ...]] = {}
    num_steps = 0
    for batch in static_batches(requests, max_batch_size):
        longest = max(requests[index].new_tokens for index in batch)
        call = GenerateBatch(prompts=[requests[index].prompt for index in batch], generation=exactly(longest))
        for index, (answer,) in zip(batch, engine.generate(call), strict=True):
            found[index] = answer.token_ids[: requests[index].new_tokens]
        num_steps += longest
    return _complete(found, requests, num_steps)


def run_continuous(engine: Advances, requests: Sequence[BenchRequest]) -> Answers:
    """All requests at once; the engine takes them on as it can.

    Raises:
        EngineError: The engine failed, refused a request, left one unanswered, or answered with another number of
            tokens.
    """
    new = [
        GenerateRequest(key=key, token_ids=request.prompt, generation=exactly(request.new_tokens))
        for key, request in enumerate(requests)
    ]
    found: dict[int, tuple[int, ...]] = {}
    num_steps = 0
    while len(found) < len(requests):
        advance = engine.advance(new, num_steps=STEPS_AT_ONCE)
        new = []
        num_steps += advance.num_steps
        for answer in advance.answers:
            if answer.error:
                raise EngineError(doing="generating", reason=f"request {answer.key}: {answer.error}")
            found[answer.key] = answer.completions[0].token_ids
        if not advance.answers and not advance.num_running + advance.num_waiting:
            break
    return _complete(found, requests, num_steps)


def _complete(found: dict[int, tuple[int, ...]], requests: Sequence[BenchRequest], num_steps: int) -> Answers:
    for index, request in enumerate(requests):
        got = len(found.get(index, ()))
        if got != request.new_tokens:
            reason = f"request {index} has {got} new tokens instead of {request.new_tokens}"
            raise EngineError(doing="generating", reason=reason, hint="This is a mistake of the engine.")
    return Answers(tuple(found[index] for index in range(len(requests))), num_steps)


def statistics(engine: Any) -> dict[str, float]:
    """What an engine counts since it was loaded; nothing if it does not count."""
    read = getattr(engine, "statistics", None)
    counted = read() if callable(read) else {}
    plain = counted if isinstance(counted, dict) else vars(counted)
    return {name: float(value) for name, value in plain.items()}
