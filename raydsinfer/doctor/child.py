"""The process in which a probe runs: what it imports, breaks or hangs in stays there."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection


def main(descriptor: int) -> None:
    """Get a function with its arguments, call it, send the answer back.

    Args:
        descriptor: Of a socket to the process that asks, which holds standard input, too.
    """
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()
    with Connection(descriptor) as asker:
        target, args = asker.recv()
        try:
            answer = (True, target(*args))
        except BaseException as error:
            traceback.print_exc()
            lines = str(error).strip().splitlines()
            answer = (False, f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)
        sys.stdout.flush()
        asker.send(answer)


def _end_with_parent() -> None:
    """Standard input ends when the process that asks does."""
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGKILL)
