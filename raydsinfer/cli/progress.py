"""What a person sees while rows are answered: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

from raydsinfer.cli.results import Tally

LINE_EVERY_S = 10.0
"""Seconds between two lines where there is no terminal: a log that someone reads later, not a display."""


@dataclass(frozen=True)
class Pace:
    """How fast it goes.

    Args:
        num_rows: Rows in all.
        tally: What is done.
        elapsed_s: Seconds since the first gang was ready.
        num_restarts: How often a gang was started again.
    """

    num_rows: int
    tally: Tally
    elapsed_s: float
    num_restarts: int = 0

    @property
    def tokens_per_s(self) -> float:
        """New tokens per second; those of an earlier run do not count."""
        tokens = self.tally.num_output_tokens - self.tally.num_stored_tokens
        return tokens / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds left if the rest goes like what is done; None before the first row that was not done before."""
        computed = self.tally.num_rows - self.tally.num_stored
        return self.elapsed_s * (self.num_rows - self.tally.num_rows) / computed if computed else None

    def __str__(self) -> str:
        left = f", {duration(self.left_s)} left" if self.left_s is not None else ""
        bad = f", {self.tally.num_errors} error rows" if self.tally.num_errors else ""
        again = f", {self.num_restarts} restart{'s' if self.num_restarts > 1 else ''}" if self.num_restarts else ""
        return f"{self.tokens_per_s:,.1f} tokens/s{left}{bad}{again}"


def duration(seconds: float) -> str:
    """Seconds for people: ``4.2 s``, ``3 min 5 s``, ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Display(Protocol):
    """Shows progress; a context manager."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def note(self, line: str) -> None:
        """Say what is going on."""
        ...

    def show(self, pace: Pace) -> None:
        """More rows are done."""
        ...


class LiveDisplay:
    """A bar that moves.

    Args:
        console: A terminal.
        num_rows: Rows in all.
    """

    def __init__(self, console: Console, num_rows: int) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[pace]}"),
        )
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("starting", total=num_rows, pace="")

    def __enter__(self) -> LiveDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def note(self, line: str) -> None:
        self._progress.console.print(line, style="dim", markup=False, highlight=False)

    def show(self, pace: Pace) -> None:
        self._progress.update(
            self._task, description="generating", completed=pace.tally.num_rows, pace=str(pace), refresh=True
        )


class PlainDisplay:
    """A line now and then.

    Args:
        console: Where to; not a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console, self._next_s = console, 0.0

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def note(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def show(self, pace: Pace) -> None:
        if time.monotonic() >= self._next_s or pace.tally.num_rows == pace.num_rows:
            self._next_s = time.monotonic() + LINE_EVERY_S
            self.note(f"{pace.tally.num_rows:,} of {pace.num_rows:,} rows, {pace}")


def open_display(console: Console, num_rows: int) -> Display:
    """The display that fits where the text goes."""
    return LiveDisplay(console, num_rows) if console.is_terminal else PlainDisplay(console)
