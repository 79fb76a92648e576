"""Errors of ours on their way through Ray Data, and back out.

Ray Data wraps what a callable raises and drops the error itself: only its text would arrive.
`ScoringError` is one of the errors that Ray Data knows as a user's, so it comes through in one piece
with the error of ours in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.data import DataContext
from ray.exceptions import UserCodeException

from raydsinfer.errors import RaydsinferError


class ScoringError(UserCodeException):
    """What consuming a `BatchPredictor`'s result raises; Ray makes a `RayTaskError` of it too.

    Attributes:
        cause: The error of ours.
    """

    def __init__(self, cause: RaydsinferError) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.cause = cause

    def __reduce__(self) -> tuple[Any, ...]:
        return ScoringError, (self.cause,)


def unwrap(error: BaseException) -> BaseException:
    """The error of ours that Ray wrapped.

    Args:
        error: What consuming a data set raised.

    Returns:
        A `RaydsinferError`, or `error` itself if there is none in it.
    """
    seen: list[BaseException] = []
    current: object = error
    while isinstance(current, BaseException) and not any(current is other for other in seen):
        inner = getattr(current, "cause", None)
        if isinstance(current, RaydsinferError) and not isinstance(inner, RaydsinferError):
            return current
        seen.append(current)
        current = inner if isinstance(inner, BaseException) else current.__cause__
    return error


@contextmanager
def raised_in_one_piece() -> Iterator[None]:
    """In a Ray Data actor: let errors of ours reach the driver as `ScoringError`."""
    try:
        yield
    except RaydsinferError as error:
        # Of this actor's copy of the context, when nothing else is run in it any more: elsewhere
        # Ray Data goes on to wrap what others' callables raise.
        DataContext.get_current().raise_original_map_exception = True
        raise ScoringError(error) from error
