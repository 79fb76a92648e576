"""A command under a warden, as seen by the process that started it: lines come out, then an exit code."""

from __future__ import annotations

import codecs
import io
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Literal

from raydsinfer.cli import warden

Stream = Literal["stdout", "stderr"]

_CHUNK_BYTES = 2**16
_LONGEST_LINE = 2**16  # characters; what is longer is cut into several lines
_WAKE_S = 0.2  # how late an interrupt may be noticed
_DRAIN_S = 1.0  # what ended has written all it had; something that it left running may go on for ever


class Lines:
    """Bytes in, whole lines out. A carriage return ends a line too, as progress bars use it."""

    def __init__(self) -> None:
        utf_8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoder, self._rest = io.IncrementalNewlineDecoder(utf_8, translate=True), ""

    def feed(self, data: bytes, *, last: bool = False) -> list[str]:
        """The lines that are complete by now; with `last` also what is left."""
        *lines, self._rest = (self._rest + self._decoder.decode(data, final=last)).split("\n")
        if self._rest and (last or len(self._rest) > _LONGEST_LINE):
            lines.append(self._rest)
            self._rest = ""
        return lines


class WardedCommand:
    """A running command. A context manager: leaving it ends the command, and all of its session.

    Args:
        command: The command and its arguments; no shell is involved.
    """

    exit_code: int | None = None  # None until it ended by itself
    problem: str = ""  # why it did not start

    def __init__(self, command: Sequence[str]) -> None:
        self._status, theirs = os.pipe()
        try:
            self._warden: Any = subprocess.Popen(  # Any: its pipes are there, whatever its type says
                [sys.executable, "-I", "-S", warden.__file__, str(theirs), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(theirs,),
                start_new_session=True,
                cwd=_home(),
            )
        finally:
            os.close(theirs)
        self._said = b""
        self._lines: dict[Stream, Lines] = {"stdout": Lines(), "stderr": Lines()}

    def __enter__(self) -> WardedCommand:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._warden.stdin.close()
        # The warden holds its end of this pipe until all is over.
        with selectors.DefaultSelector() as over:
            over.register(self._status, selectors.EVENT_READ)
            deadline = time.monotonic() + warden.TERMINATE_S + warden.KILL_S + 1
            while (left_s := deadline - time.monotonic()) > 0:
                if over.select(left_s) and not os.read(self._status, _CHUNK_BYTES):
                    break
        for name in self._lines:
            getattr(self._warden, name).close()
        os.close(self._status)
        self._warden.wait()

    def output(self) -> Iterator[tuple[Stream, list[str]]]:
        """Lines as they come, until the command has ended; then `exit_code` is set.

        Raises:
            ChildProcessError: The warden was killed.
        """
        with selectors.DefaultSelector() as ready:
            for name in self._lines:
                ready.register(getattr(self._warden, name), selectors.EVENT_READ, name)
            ready.register(self._status, selectors.EVENT_READ, None)
            while self._status in ready.get_map():
                for key, _ in ready.select(_WAKE_S):
                    yield from self._read(ready, key)
            deadline = time.monotonic() + _DRAIN_S
            while ready.get_map() and time.monotonic() < deadline and (found := ready.select(0)):
                for key, _ in found:
                    yield from self._read(ready, key)
        for name, lines in self._lines.items():
            if left := lines.feed(b"", last=True):
                yield name, left
        self._conclude()

    def _read(self, ready: selectors.BaseSelector, key: selectors.SelectorKey) -> Iterator[tuple[Stream, list[str]]]:
        data = os.read(key.fd, _CHUNK_BYTES)
        if not data:
            ready.unregister(key.fileobj)
        if key.data is None:
            self._said += data
        elif lines := self._lines[key.data].feed(data):
            yield key.data, lines

    def _conclude(self) -> None:
        code, _, self.problem = self._said.decode(errors="replace").strip().partition(" ")
        if not code.lstrip("-").isdigit():
            raise ChildProcessError(f"the process that watched the command was killed; {code or 'it said nothing'}")
        self.exit_code = int(code)


def _home() -> str:
    """Where the command starts, as with ssh."""
    home = os.path.expanduser("~")
    return home if os.path.isdir(home) else "/"
