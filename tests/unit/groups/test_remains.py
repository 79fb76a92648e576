"""Real processes: shells that call themselves ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from raydsinfer.groups.remains import end_processes


@pytest.fixture
def start() -> Iterator[object]:
    """Start a leader of a process group, with one child; returns both."""
    started = []

    def run(title: str) -> tuple[subprocess.Popen[str], int]:
        # The child is the shell's; the shell becomes something with the title.
        script = f"sleep 300 & echo $!; exec -a '{title}' sleep 300"
        leader = subprocess.Popen(
            ["/bin/bash", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(leader)
        return leader, int(leader.stdout.readline())

    yield run
    for leader in started:
        with suppress(ProcessLookupError):
            os.killpg(leader.pid, signal.SIGKILL)
        leader.wait()
        leader.stdout.close()


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_for_title(leader: subprocess.Popen[str], title: str) -> None:
    while psutil.Process(leader.pid).cmdline()[:1] != [title]:  # empty for a moment, while it starts
        pass


def test_the_children_of_a_rank_that_was_killed_are_ended(start):
    leader, child = start("ray::Worker")
    leader.kill()
    leader.wait()
    assert is_running(child)
    assert end_processes([leader.pid]) == []
    assert not is_running(child)


def test_a_rank_that_is_still_there_is_ended_with_its_children(start):
    leader, child = start("ray::Worker.call")
    wait_for_title(leader, "ray::Worker.call")
    assert end_processes([leader.pid]) == []
    assert not is_running(leader.pid)
    assert not is_running(child)


def test_a_rank_that_is_ending_may_do_so_by_itself(start):
    leader, child = start("ray::Worker")
    wait_for_title(leader, "ray::Worker")
    ending = threading.Timer(0.2, leader.terminate)
    ending.start()
    assert end_processes([leader.pid], own_end_s=60.0) == []
    assert leader.wait() == -signal.SIGTERM
    assert not is_running(child)


def test_a_stranger_that_got_the_process_id_of_a_rank_is_left_alone(start):
    leader, child = start("postgres")
    wait_for_title(leader, "postgres")
    assert end_processes([leader.pid]) == []
    assert is_running(leader.pid)
    assert is_running(child)


def test_what_was_never_there_costs_nothing():
    assert end_processes([]) == []
    assert end_processes([2**22 + 1]) == []


def test_a_process_gets_a_group_of_its_own_once():
    script = "import os; from raydsinfer.groups.remains import lead_process_group as lead; lead(); lead()"
    check = "; assert os.getpgrp() == os.getpid()"
    subprocess.run([sys.executable, "-c", script + check], check=True)
