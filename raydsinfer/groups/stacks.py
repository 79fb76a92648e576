"""What the threads of a process are doing, in words."""

from __future__ import annotations

import re
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

_INNERMOST = 4
_THREAD = re.compile(r"^(?:Current thread|Thread) 0x([0-9a-f]+)(?: \[(.*)\])? \(most recent call first\):")
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$')


@dataclass(frozen=True, kw_only=True)
class ThreadStack:
    """One thread.

    Args:
        ident: Python's number of it.
        name: Its name, if it has one.
        frames: ``function (file:line)``, innermost call last.
    """

    ident: int
    name: str = ""
    frames: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RankStacks:
    """The threads of one rank.

    Args:
        threads: In any order.
        engine_thread: `ident` of the one that runs the engine.
        note: Why there are none, or what else there is to say.
    """

    threads: Sequence[ThreadStack] = ()
    engine_thread: int = 0
    note: str = ""

    @property
    def innermost(self) -> str:
        """The last calls of the engine's thread in one line, or the note."""
        frames = next((t.frames for t in self.threads if t.ident == self.engine_thread), ())
        return " > ".join(frames[-_INNERMOST:]) or self.note

    def __str__(self) -> str:
        """All threads, the engine's first: a line a call, innermost last."""
        ordered = sorted(self.threads, key=lambda thread: thread.ident != self.engine_thread)
        blocks = [self.note] if self.note else []
        for thread in ordered:
            title = "engine thread" if thread.ident == self.engine_thread else f"thread {thread.name or thread.ident}"
            blocks.append("\n  ".join([f"{title}:", *thread.frames]))
        return "\n".join(blocks)


def own_stacks() -> tuple[ThreadStack, ...]:
    """All threads of this process but the one that asks."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return tuple(
        ThreadStack(
            ident=ident,
            name=names.get(ident, ""),
            frames=tuple(f"{f.name} ({f.filename}:{f.lineno})" for f in traceback.extract_stack(frame)),
        )
        for ident, frame in sys._current_frames().items()
        if ident != threading.get_ident()
    )


def read_dump(text: str) -> tuple[ThreadStack, ...]:
    """Threads from what `faulthandler` wrote, which puts the innermost call first."""
    threads: list[ThreadStack] = []
    frames: list[str] = []
    for line in [*text.splitlines(), "Thread 0x0 (most recent call first):"]:
        if started := _THREAD.match(line):
            if threads:
                threads[-1] = ThreadStack(ident=threads[-1].ident, name=threads[-1].name, frames=tuple(frames[::-1]))
            frames = []
            threads.append(ThreadStack(ident=int(started[1], 16), name=started[2] or ""))
        elif frame := _FRAME.match(line):
            frames.append(f"{frame[3]} ({frame[1]}:{frame[2]})")
    return tuple(threads[:-1])
