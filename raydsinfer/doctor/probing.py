"""Runs probes side by side, each in a process of its own and with a time limit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO, TypeVar

import psutil

from raydsinfer.doctor.findings.failed import ProbeFailed

T = TypeVar("T")

_POLL_S = 0.2
_LEAVE_S = 5.0  # for a process that has answered, to end by itself
_LINES = 20  # of what a failed probe wrote

# The path of this process: a source tree that pytest or -m found is found there, too.
_CODE = "import sys; sys.path[:] = {path!r}; from raydsinfer.doctor.child import main; main({descriptor})"


class Probing:
    """A context manager; on leaving it no process of a probe is left.

    Args:
        at_once: Probes that run side by side.
    """

    def __init__(self, at_once: int = 3) -> None:
        self._pool = ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="probe")
        self._stop = threading.Event()

    def __enter__(self) -> Probing:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self, target: Callable[..., T], *args: object, timeout_s: float) -> Future[T | ProbeFailed]:
        """Call a function elsewhere. The future never raises.

        Args:
            target: At the top of a module.
            *args: What it gets; must pickle, as its answer.
            timeout_s: Seconds that it may take.
        """
        return self._pool.submit(self._probe, target, args, timeout_s)

    def _probe(self, target: Callable[..., T], args: tuple[object, ...], timeout_s: float) -> T | ProbeFailed:
        ours, theirs = Pipe()
        with ours, tempfile.TemporaryFile("w+", errors="replace") as output:
            try:
                process = _started(theirs, output)
            except OSError as error:  # no more processes, no memory
                return ProbeFailed(reason=f"its process did not start: {error}")
            try:
                ours.send((target, args))
                return self._answer(ours, timeout_s, process, output)
            except OSError as error:
                return ProbeFailed(reason=str(error), output=_tail(output))
            finally:
                _end(process)

    def _answer(
        self, connection: Connection, timeout_s: float, process: subprocess.Popen[bytes], output: IO[str]
    ) -> T | ProbeFailed:
        until = time.monotonic() + timeout_s
        while not connection.poll(_POLL_S):
            if time.monotonic() > until or self._stop.is_set():
                return ProbeFailed(reason=f"no answer within {timeout_s:g} s", output=_tail(output), timed_out=True)
        try:
            well, answer = connection.recv()
        except (EOFError, ConnectionError):
            code = process.wait()
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return ProbeFailed(reason=f"its process died of {how}", output=_tail(output))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LEAVE_S)
        return answer if well else ProbeFailed(reason=answer, output=_tail(output))


def _started(theirs: Connection, output: IO[str]) -> subprocess.Popen[bytes]:
    with theirs:
        code = _CODE.format(path=[entry or os.getcwd() for entry in sys.path], descriptor=theirs.fileno())
        return subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,  # it ends when this process does
            stdout=output,
            stderr=output,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,  # a Ctrl-C is for this process, which then ends it
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill it, and what it has started, whatever session that is in."""
    started: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _tail(output: IO[str]) -> str:
    output.seek(0)
    return "\n".join([line.rstrip() for line in output if line.strip()][-_LINES:])
