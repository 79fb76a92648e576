"""Probes for tests: functions that a process of its own can import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn


def add(one: int, other: int) -> int:
    print("this is no output of the command")
    return one + other


def refuse() -> NoReturn:
    print("first\nlast words", file=sys.stderr)
    raise ValueError("it is broken\nin many ways")


def crash() -> None:
    sys.stderr.write("about to crash\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(pids: str) -> None:
    """Hang with a child that went into a session of its own."""
    child = subprocess.Popen(["/bin/sleep", "900"], start_new_session=True)
    Path(pids).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(900)
