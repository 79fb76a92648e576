"""How a command ends: one message and an exit code."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer
from rich.console import Console

from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.errors import (
    CheckpointNotFoundError,
    ConfigurationError,
    DataError,
    ErrorRateError,
    RaydsinferError,
    RowFailedError,
    WorkerGroupError,
)


class ExitCode(IntEnum):
    """What the shell gets."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    ERROR_ROWS = 3
    ROWS_FAILED = 4
    INTERRUPTED = 130
    TERMINATED = 143


def exit_code(error: BaseException) -> ExitCode:
    """2 if the command line or the data has to change, 4 if too many rows failed for the job to go on, else 1."""
    if isinstance(error, WorkerGroupError):  # the ranks may have found what only they could know
        return ExitCode(max((exit_code(cause) for cause in error.causes.values()), default=ExitCode.FAILURE))
    if isinstance(error, RowFailedError | ErrorRateError):
        return ExitCode.ROWS_FAILED
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
def reported_failures(
    console: Console, *, debug: bool, interrupted: str = _NOTHING_LEFT, afterwards: Callable[[], str] = lambda: ""
) -> Iterator[None]:
    """End the command with a message instead of a traceback.

    Args:
        console: Where to say it.
        debug: Whether to show the traceback too.
        interrupted: What is said after Ctrl-C.
        afterwards: Asked for a last line, about how to go on, when the command ends early; empty for none.
    """

    def say(line: str, style: str | None = None) -> None:
        if line:  # other libraries quote URLs with all that is in them
            console.print(without_secrets(line), markup=False, highlight=False, soft_wrap=True, style=style)

    try:
        with one_interrupt():
            yield
    except KeyboardInterrupt:
        # What had to be given back was given back on the way here.
        say(interrupted)
        say(afterwards())
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except SystemExit as leaving:
        if leaving.code == ExitCode.TERMINATED:
            say(afterwards())
        raise
    except typer.Exit:
        raise
    except Exception as error:
        if debug:
            say(traceback.format_exc())
        root = root_error(error)
        name = "" if isinstance(root, RaydsinferError) else f"{type(root).__name__}: "
        hint = "" if isinstance(root, RaydsinferError) or debug else " (--debug shows more)"
        say(f"error: {name}{root}{hint}", "red")
        say(afterwards())
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
