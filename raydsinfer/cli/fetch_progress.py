"""What a person sees while nodes fetch: a live line a node on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from raydsinfer.checkpoints.sizes import size_in_words
from raydsinfer.checkpoints.sources.fetch import Fetched
from raydsinfer.cli.progress import LINE_EVERY_S
from raydsinfer.nodes import NodeResult


@dataclass(frozen=True)
class Arrived:
    """How far a node is.

    Args:
        node_id: Which node.
        num_bytes: What is there.
        total_bytes: What is wanted; 0 if that is not known.
        bytes_per_s: How fast it comes.
    """

    node_id: str
    num_bytes: int
    total_bytes: int
    bytes_per_s: float

    def __str__(self) -> str:
        of = f" of {size_in_words(self.total_bytes)}" if self.total_bytes else ""
        rate = f", {self.bytes_per_s / 1e6:,.1f} MB/s" if self.bytes_per_s else ""
        return f"{size_in_words(self.num_bytes)}{of}{rate}"


def outcome(result: NodeResult[Fetched]) -> str:
    """How it ended on a node, in words."""
    fetched = result.value
    if fetched is None:
        return f"failed: {(str(result.error).splitlines() or [type(result.error).__name__])[0]}"
    if fetched.already_there:
        return f"already there, {size_in_words(fetched.num_bytes)} in {fetched.directory}"
    return f"fetched {size_in_words(fetched.num_fetched_bytes)} in {fetched.seconds:,.1f} s to {fetched.directory}"


class FetchDisplay(Protocol):
    """Shows progress; a context manager."""

    def __enter__(self) -> FetchDisplay: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, arrived: Arrived) -> None:
        """A node has more."""
        ...

    def done(self, result: NodeResult[Fetched]) -> None:
        """A node has ended."""
        ...


class LiveFetchDisplay:
    """A bar a node.

    Args:
        console: A terminal.
        names: Node id → name.
    """

    def __init__(self, console: Console, names: Mapping[str, str]) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[said]}", markup=False),
        )
        self._progress = Progress(*columns, console=console)
        self._tasks = {
            node_id: self._progress.add_task(name, total=None, said="starting") for node_id, name in names.items()
        }

    def __enter__(self) -> LiveFetchDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, arrived: Arrived) -> None:
        if arrived.node_id in self._tasks:  # what comes after the result is old
            self._progress.update(
                self._tasks[arrived.node_id],
                total=arrived.total_bytes or None,
                completed=arrived.num_bytes,
                said=str(arrived),
            )

    def done(self, result: NodeResult[Fetched]) -> None:
        if result.node_id in self._tasks:
            task = self._tasks.pop(result.node_id)
            size = result.value.num_bytes if result.value else 0
            there = {"total": size, "completed": size} if size else {"total": 1.0, "completed": 0.0}
            self._progress.update(task, said=outcome(result), **there)
            self._progress.stop_task(task)


class PlainFetchDisplay:
    """A line a node now and then.

    Args:
        console: Where to; not a terminal.
        names: Node id → name.
    """

    def __init__(self, console: Console, names: Mapping[str, str]) -> None:
        self._console, self._names = console, names
        self._next_s = dict.fromkeys(names, 0.0)

    def __enter__(self) -> PlainFetchDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, arrived: Arrived) -> None:
        now = time.monotonic()
        if now >= self._next_s.get(arrived.node_id, 0.0) and arrived.num_bytes != arrived.total_bytes:
            self._next_s[arrived.node_id] = now + LINE_EVERY_S
            self._say(arrived.node_id, str(arrived))

    def done(self, result: NodeResult[Fetched]) -> None:
        self._next_s[result.node_id] = float("inf")  # what comes after the result is old
        self._say(result.node_id, outcome(result))

    def _say(self, node_id: str, text: str) -> None:
        line = f"{self._names.get(node_id, node_id[:8])}: {text}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def open_fetch_display(console: Console, names: Mapping[str, str]) -> FetchDisplay:
    """The display that fits where the text goes."""
    return LiveFetchDisplay(console, names) if console.is_terminal else PlainFetchDisplay(console, names)
