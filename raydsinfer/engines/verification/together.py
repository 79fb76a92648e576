"""What ranks tell each other at the gate. All of them make the same calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from raydsinfer.engines.base import RankContext
from raydsinfer.errors import EngineError, RaydsinferError, UnsupportedError, summary_of

T = TypeVar("T")


def from_all(context: RankContext, value: T) -> list[T]:
    """The value of each rank, in order of rank."""
    if context.world_size == 1:
        return [value]
    values: list[Any] = [None] * context.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def by_first(context: RankContext, compute: Callable[[], T]) -> T:
    """What rank 0 computes, on every rank; what it raises, too. The others wait, as long as a collective may take.

    Raises:
        EngineError: The device failed.
        UnsupportedError: It failed in another way that nobody here has seen yet: there is nothing to compare with.
    """
    outcome: list[Any] = [None, None]
    if context.world_rank == 0:
        try:
            outcome[0] = compute()
        except RaydsinferError as error:
            outcome[1] = error
        except torch.AcceleratorError as error:  # nothing works in this process any more
            outcome[1] = EngineError(doing="computing the reference", reason=summary_of(error))
        except Exception as error:
            why = f"computing the reference failed ({summary_of(error)})"
            outcome[1] = UnsupportedError(what="a comparison of this model", why=why, instead="Use verify='off'.")
    if context.world_size > 1:
        torch.distributed.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    value: T = outcome[0]
    return value
