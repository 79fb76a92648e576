"""Runs one command in a session of its own, and ends that session when whoever asked for it goes away.

A script of the standard library only: `python warden.py FD COMMAND [ARGS...]`. The command has this
process's standard output and error. Standard input is the lifeline: when its other end is closed, by
hand or because the process there died, the whole session gets SIGTERM, and SIGKILL when it stays. The
exit code, or the reason why the command did not start, is written to the descriptor FD as one line.

Ray kills the children of a worker process that ends, but not their children; this script steps out of
its way. What a command leaves behind when it ends by itself stays (a mount's daemon is the purpose).
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

TERMINATE_S = 5.0  # for the command to clean up
KILL_S = 5.0  # a process in an uninterruptible system call, as on a mount that hangs, does not even notice

_POLL_S = 0.05


def main(arguments: list[str]) -> None:
    """Entry point."""
    status, command = int(arguments[0]), arguments[1:]
    if os.fork():  # no longer a child of the worker
        os._exit(0)
    # Ray starts its processes with Ctrl-C blocked; a command begins as a shell would start it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    with os.fdopen(status, "w") as told:
        try:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        except (OSError, ValueError) as error:
            # As a shell counts: 127 is no such command, 126 is one that cannot be run.
            told.write(f"{127 if isinstance(error, FileNotFoundError) else 126} {error}\n")
            return
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (1, 2):  # the command alone holds the pipes
            os.dup2(nowhere, stream)
        while child.poll() is None:
            if select.select([0], [], [], _POLL_S)[0]:
                end_session(child)
                break
        code = child.poll()
        told.write(f"{code if code is None or code >= 0 else 128 - code}\n")


def end_session(child: subprocess.Popen[bytes]) -> None:
    """Ask every process of the child's session to end, then make them."""
    for sent, wait_s, again in ((signal.SIGTERM, TERMINATE_S, False), (signal.SIGKILL, KILL_S, True)):
        deadline, first = time.monotonic() + wait_s, True
        while (members := living_members(child.pid)) and time.monotonic() < deadline:
            for pid in members if first or again else ():
                try:
                    os.kill(pid, sent)
                except ProcessLookupError:
                    continue
            first = False
            time.sleep(_POLL_S)
            child.poll()  # or it stays as a zombie


def living_members(session: int) -> list[int]:
    """Processes of a session that have not ended."""
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # After the name, which may hold anything: state, parent, process group, session.
            state, _, _, owner = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:4]
        except (OSError, ValueError):  # it ended meanwhile
            continue
        if int(owner) == session and state not in "ZX":
            members.append(int(entry.name))
    return members


if __name__ == "__main__":
    main(sys.argv[1:])
