"""What a gang's failure means for those who waited: which of their requests it was working on."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from raydsinfer.engines.base import GenerateBatch
from raydsinfer.errors import EngineError, RaydsinferError, WorkerGroupError
from raydsinfer.rows.limits import num_sequences

Way = Literal["advance", "generate"]
"""How rows are on the gang: in the running batch of a continuous engine, or in a static batch of their own."""

_SHOWN_CHARS = 400  # of a death in a row's error: class and message, not the stacks that may come with them


@dataclass(frozen=True)
class FailedCall:
    """The call that a gang failed in.

    Args:
        way: Which.
        num_rows: Rows that it worked on; 0 if the gang had failed before.
        size: What they count against the way's limit: rows of `advance`, sequences of `generate`.
    """

    way: Way = "advance"
    num_rows: int = 0
    size: int = 0


def failed_batch(batch: GenerateBatch) -> FailedCall:
    """The call of a static batch."""
    num_rows = len(batch.prompts)
    return FailedCall("generate", num_rows, num_rows * num_sequences(batch.generation))


@dataclass(eq=False)
class GangFailed(Exception):
    """A gang failed while a caller waited. Between serving's own modules only; each caller has its own.

    Args:
        error: What the gang raised.
        on_gang: The caller's keys of those of its requests that the gang was working on.
        num_on_gang: Requests that the gang was working on, of all callers.
        life: Which life of the gang ended so; None if it goes on, because all ranks are still in step.
        call: In which call. Not all rows on the gang need be in it.
    """

    error: WorkerGroupError
    on_gang: Collection[int] = ()
    num_on_gang: int = 0
    life: int | None = None
    call: FailedCall = FailedCall()


def is_out_of_memory(error: WorkerGroupError) -> bool:
    """Whether fewer rows at once might do."""
    return any(isinstance(cause, EngineError) and cause.out_of_memory for cause in error.causes.values())


def in_words(error: WorkerGroupError) -> str:
    """A failure in one line for a row's error: what became of the first rank that has a cause."""
    if not error.causes:
        return f"{error.gang} failed in {error.phase}"
    rank, cause = min(error.causes.items(), key=lambda item: item[0])
    lines = str(cause).strip().splitlines()
    text = f"rank {rank}: {type(cause).__name__}: {lines[0] if lines else 'no message'}"
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def fresh(error: BaseException) -> BaseException:
    """A copy for one thread: each that raises an exception writes its own traceback into it."""
    if not isinstance(error, RaydsinferError):
        return error
    again = copy.copy(error)
    again.__cause__ = error.__cause__
    return again
