"""Commands under a warden: real processes, and none of them left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from raydsinfer.cli.warded import Lines, WardedCommand


def run(*command: str) -> tuple[int | None, dict[str, list[str]], str]:
    said: dict[str, list[str]] = {"stdout": [], "stderr": []}
    with WardedCommand(command) as warded:
        for stream, lines in warded.output():
            said[stream] += lines
    return warded.exit_code, said, warded.problem


def wait_until(true: Callable[[], object], timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def pids_in(path: Path, number: int) -> list[int]:
    wait_until(lambda: path.exists() and len(path.read_text().split()) >= number)
    return [int(word) for word in path.read_text().split()]


def any_alive(pids: list[int]) -> bool:
    return any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([b"one\ntwo\n"], ["one", "two"]),
        ([b"on", b"e\nt", b"wo"], ["one", "two"]),
        ([b"10%\r20%\r", b"\ndone"], ["10%", "20%", "done"]),
        ([b"a\r", b"\nb\n"], ["a", "b"]),
        ([b"\n\n"], ["", ""]),
        (["grüß".encode()[:3], "grüß".encode()[3:], b"\xff\n"], ["grüß\N{REPLACEMENT CHARACTER}"]),
        ([b"x" * 70_000, b"y\n"], ["x" * 70_000, "y"]),
        ([], []),
    ],
)
def test_bytes_become_lines(chunks: list[bytes], lines: list[str]) -> None:
    reader = Lines()
    got = [line for chunk in chunks for line in reader.feed(chunk)] + reader.feed(b"", last=True)
    assert got == lines


def test_lines_of_both_streams_and_the_exit_code() -> None:
    code, said, _ = run("bash", "-c", "echo out; echo err >&2; printf 'no end'; exit 7")
    assert (code, said) == (7, {"stdout": ["out", "no end"], "stderr": ["err"]})


def test_much_output_comes_whole() -> None:
    code, said, _ = run("seq", "1", "200000")
    assert (code, said["stdout"]) == (0, [str(number) for number in range(1, 200_001)])


def test_arguments_are_not_read_by_a_shell() -> None:
    assert run("echo", "$HOME; false", "*")[1]["stdout"] == ["$HOME; false *"]


def test_no_input_no_blocked_signals_home_directory() -> None:
    code, said, _ = run("bash", "-c", "cat; pwd; grep SigBlk /proc/self/status")
    assert (code, said["stdout"]) == (0, [os.path.expanduser("~"), "SigBlk:\t0000000000000000"])


def test_what_cannot_be_started(tmp_path: Path) -> None:
    assert run("no-such-command") == (
        127,
        {"stdout": [], "stderr": []},
        "[Errno 2] No such file or directory: 'no-such-command'",
    )
    (tmp_path / "plain").write_text("x")
    code, _, problem = run(str(tmp_path / "plain"))
    assert (code, "Permission denied" in problem) == (126, True)


def test_a_signal_counts_as_in_a_shell() -> None:
    assert run("bash", "-c", "kill -9 $$")[0] == 137


def test_leaving_early_ends_all_of_it(tmp_path: Path) -> None:
    # `timeout` moves to a process group of its own.
    script = "echo $$ >> p; timeout 600 sleep 600 & echo $! >> p; sleep 600 & echo $! >> p; wait"
    with WardedCommand(["bash", "-c", f"cd {tmp_path}; {script}"]):
        pids = pids_in(tmp_path / "p", 3)
        pids += [child.pid for child in psutil.Process(pids[0]).children(recursive=True)]
        assert any_alive(pids)
    assert not any_alive(pids)


def test_it_may_clean_up_first(tmp_path: Path) -> None:
    script = f"trap 'echo cleaned > {tmp_path}/c; exit' TERM; echo $$ > {tmp_path}/p; sleep 600 & wait"
    with WardedCommand(["bash", "-c", script]):
        pids = pids_in(tmp_path / "p", 1)
    assert (tmp_path / "c").read_text() == "cleaned\n"
    assert not any_alive(pids)


def test_one_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    script = f"trap '' TERM; echo $$ > {tmp_path}/p; while true; do sleep 1; done"
    with WardedCommand(["bash", "-c", script]):
        pids = pids_in(tmp_path / "p", 1)
    assert not any_alive(pids)


def test_its_owner_is_killed(tmp_path: Path) -> None:
    owner = (
        "import time; from raydsinfer.cli.warded import WardedCommand; "
        f"command = WardedCommand(['bash', '-c', 'echo $$ > {tmp_path}/p; sleep 600']); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", owner], cwd=Path(__file__).parents[3])
    try:
        pids = pids_in(tmp_path / "p", 1)
        assert any_alive(pids)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_until(lambda: not any_alive(pids))


def test_what_it_leaves_on_purpose_stays_and_holds_nobody_up(tmp_path: Path) -> None:
    began = time.monotonic()
    code, said, _ = run("bash", "-c", f"sleep 600 & echo $! > {tmp_path}/p; echo mounted")
    try:
        assert (code, said["stdout"]) == (0, ["mounted"])
        assert time.monotonic() - began < 10
        assert any_alive(pids_in(tmp_path / "p", 1))
    finally:
        os.kill(pids_in(tmp_path / "p", 1)[0], signal.SIGKILL)


def test_a_killed_warden_is_an_error() -> None:
    seconds = f"600.{os.getpid()}"  # this run's own
    with WardedCommand(["sleep", seconds]) as command:
        wait_until(lambda: sleepers(seconds))
        (sleep,) = sleepers(seconds)
        warden = sleep.parent()
        assert warden is not None
        warden.kill()
        sleep.kill()
        with pytest.raises(ChildProcessError, match="was killed"):
            list(command.output())


def sleepers(seconds: str) -> list[psutil.Process]:
    """This test's `sleep`, under its warden."""
    found = []
    for process in psutil.process_iter():
        try:
            parent = process.parent() if process.cmdline() == ["sleep", seconds] else None
            if parent is not None and "warden.py" in " ".join(parent.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found
