"""Stacks of real processes that cannot tell them; no Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from raydsinfer.groups.dump import dump_of
from raydsinfer.groups.stacks import read_dump

RANK = """
import ctypes, os, threading, time
from raydsinfer.groups.dump import open_dump
print(open_dump(), threading.get_ident(), flush=True)
def hold_the_lock():
    while True:  # a signal ends C's sleep
        ctypes.PyDLL(None).sleep(60)  # PyDLL keeps the lock
threading.Thread(target=time.sleep, args=(60,), name="other", daemon=True).start()
hold_the_lock()
"""


@contextmanager
def rank() -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """A process that holds Python's lock: it, its descriptor and its thread."""
    with subprocess.Popen([sys.executable, "-c", RANK], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        descriptor, thread = map(int, process.stdout.readline().split())
        try:
            deadline = time.monotonic() + 20
            while "hold_the_lock" not in dump_of(process.pid, descriptor)[0] and time.monotonic() < deadline:
                time.sleep(0.05)
            yield process, descriptor, thread
        finally:
            process.kill()


def test_a_process_that_holds_the_lock_is_read_and_goes_on() -> None:
    with rank() as (process, descriptor, thread):
        for _ in range(2):
            text, note = dump_of(process.pid, descriptor)
            assert note == ""
            stacks = {stack.ident: stack for stack in read_dump(text)}
            assert len(stacks) == 2
            assert "hold_the_lock" in stacks[thread].frames[-1]
        assert process.poll() is None


def test_a_stopped_process_is_said_to_be() -> None:
    with rank() as (process, descriptor, _):
        process.send_signal(signal.SIGSTOP)
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        text, note = dump_of(process.pid, descriptor)
        assert text == ""
        assert "is stopped (SIGSTOP)" in note
        assert f"kill -CONT {process.pid}" in note


def test_a_process_that_did_not_register_is_not_sent_a_signal() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stranger:
        assert dump_of(stranger.pid, 1) == ("", "its process is gone")
        assert dump_of(stranger.pid, 77)[0] == ""
        assert stranger.poll() is None
        stranger.kill()


def test_a_process_that_is_gone_is_no_error() -> None:
    with rank() as (process, descriptor, _):
        process.kill()
        process.wait()
        text, note = dump_of(process.pid, descriptor)
        assert text == ""
        assert "cannot be read" in note


def test_nothing_is_left_in_the_file_system() -> None:
    with rank() as (process, descriptor, _):
        assert os.readlink(f"/proc/{process.pid}/fd/{descriptor}").startswith("/memfd:")
