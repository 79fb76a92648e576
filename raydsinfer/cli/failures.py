"""How a command ends: one message and an exit code."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer
from rich.console import Console

from raydsinfer.errors import CheckpointNotFoundError, ConfigurationError, DataError, RaydsinferError, WorkerGroupError


class ExitCode(IntEnum):
    """What the shell gets."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    ERROR_ROWS = 3
    INTERRUPTED = 130


def exit_code(error: BaseException) -> ExitCode:
    """2 if the command line or the data has to change, else 1."""
    if isinstance(error, WorkerGroupError):  # the ranks may have found what only they could know
        return ExitCode(max((exit_code(cause) for cause in error.causes.values()), default=ExitCode.FAILURE))
    usage = ConfigurationError | DataError | CheckpointNotFoundError
    return ExitCode.USAGE if isinstance(error, usage) else ExitCode.FAILURE


def root_error(error: BaseException) -> BaseException:
    """The error of ours within what Ray wrapped around it; the error itself if there is none."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        inner = getattr(current, "cause", None)
        if isinstance(current, RaydsinferError) and not isinstance(inner, RaydsinferError):
            return current
        seen.append(current)
        current = inner if isinstance(inner, BaseException) else current.__cause__ or current.__context__
    return error


_NOTHING_LEFT = "interrupted; no process and no unfinished file was left behind"


@contextmanager
def reported_failures(console: Console, *, debug: bool, interrupted: str = _NOTHING_LEFT) -> Iterator[None]:
    """End the command with a message instead of a traceback.

    Args:
        console: Where to say it.
        debug: Whether to show the traceback too.
        interrupted: What is said after Ctrl-C.
    """
    try:
        with one_interrupt():
            yield
    except KeyboardInterrupt:
        # What had to be given back was given back on the way here.
        console.print(interrupted, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except typer.Exit:
        raise
    except Exception as error:
        if debug:
            console.print(traceback.format_exc(), markup=False, highlight=False, soft_wrap=True)
        root = root_error(error)
        name = "" if isinstance(root, RaydsinferError) else f"{type(root).__name__}: "
        hint = "" if isinstance(root, RaydsinferError) or debug else " (--debug shows more)"
        console.print(f"error: {name}{root}{hint}", markup=False, highlight=False, soft_wrap=True, style="red")
        raise typer.Exit(exit_code(root)) from None


@contextmanager
def one_interrupt() -> Iterator[None]:
    """Let the first Ctrl-C through and no other, so that nothing stops the clean-up that it starts."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
