"""How many rows a batch has, and how many batches a gang works on at once: pure.

A batch leaves when its longest row is done, and its rows that were done before still count as in flight. With
continuous batching the engine stays full only if enough batches are behind it: rows in flight, in multiples of
`EngineConfig.max_running`, have to cover the longest row's tokens in multiples of the mean row's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from raydsinfer.config import EngineConfig
from raydsinfer.rows.limits import may_batch_continuously

# Static: two engine calls a batch. Results come early, and rows with equal settings or lengths can meet.
_ENGINE_CALLS_PER_BATCH = 2

# Continuous: a simulation of 16384 rows of log-normal lengths (8 to 384 tokens, the longest 3.7 times the mean)
# keeps 58% of 256 slots busy with 2 times as many rows in flight, 86% with 3 times, 99.9% with 4 times, in
# batches of 64. Batches of 256 need 6 times as many.
_RUNNING_IN_FLIGHT = 4
_BATCHES_PER_RUNNING = 4

# Each is a thread of the predictor's actor.
_MOST_BATCHES = 64

# One batch is generated while the next is already on the actor's node. And Ray Data adds actors only when those
# it has were sent so many batches for each that they work on: 1.75 in Ray 2.60, 2 in 2.53.
_TASKS_PER_THREAD = 2


@dataclass(frozen=True, kw_only=True)
class Flow:
    """How rows come to a gang.

    Args:
        batch_size: Rows of a batch.
        num_at_once: Batches that the gang's predictor works on at once.
        num_in_flight: Batches that Ray Data sends to it at once.
    """

    batch_size: int
    num_at_once: int
    num_in_flight: int


def plan_flow(
    config: EngineConfig, batch_size: int | None, *, num_rows: int | None, min_gangs: int, max_gangs: int
) -> Flow:
    """Decide it on the driver, where nobody knows yet what ``batching="auto"`` will turn out to be.

    A gang that turns out to batch statically takes the batches in turns, so that more of them only bind rows.

    Args:
        config: The engine's settings.
        batch_size: As the caller wants it; None means a default.
        num_rows: Of the whole data set, if that is known.
        min_gangs: Fewest gangs.
        max_gangs: Most gangs.
    """
    size = batch_size or _default_batch_size(config)
    if not may_batch_continuously(config):
        return Flow(batch_size=size, num_at_once=1, num_in_flight=_TASKS_PER_THREAD)
    at_once = math.ceil(_RUNNING_IN_FLIGHT * config.max_running / size)
    if num_rows is not None:
        # The first gang that is up should not take what belongs to the others.
        at_once = min(at_once, math.ceil(num_rows / size / max_gangs))
    at_once = min(max(at_once, 2), _MOST_BATCHES)
    # The next batch need not lie on the actor's node already: enough others are being worked on.
    in_flight = at_once if min_gangs == max_gangs else at_once * _TASKS_PER_THREAD
    return Flow(batch_size=size, num_at_once=at_once, num_in_flight=in_flight)


def _default_batch_size(config: EngineConfig) -> int:
    size = _ENGINE_CALLS_PER_BATCH * config.max_batch_size
    if config.batching == "continuous":
        return max(1, config.max_running // _BATCHES_PER_RUNNING)
    return max(size, config.max_running // _BATCHES_PER_RUNNING) if may_batch_continuously(config) else size
