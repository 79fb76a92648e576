"""The command line as a user runs it: processes of their own, none of which outlives its test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import ray

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 90


class Commands:
    """Starts `raydsinfer` on the Ray that this process is connected to. A context manager."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Commands:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._started:
            process.kill()
            process.communicate()

    def start(self, *words: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command; its flags go before a ``--``."""
        end = words.index("--") if "--" in words else len(words)
        address = ["--address", ray.get_runtime_context().gcs_address]
        process = subprocess.Popen(
            [sys.executable, "-m", "raydsinfer.cli.main", *words[:end], *address, *words[end:]],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # what Ctrl-C on a terminal would reach
        )
        self._started.append(process)
        return process

    def run(self, *words: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
        """Run a command: its exit code, output and messages."""
        return finish(self.start(*words, env=env))


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a command."""
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert "Traceback" not in err
    return process.returncode, out, err


def wait_until(true: Callable[[], object], timeout_s: float = 30) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"not so within {timeout_s:g} s"
        time.sleep(0.05)
