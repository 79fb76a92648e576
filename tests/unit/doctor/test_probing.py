"""Probes in real processes: none fails another, none stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from raydsinfer.doctor.findings.failed import ProbeFailed
from raydsinfer.doctor.probing import Probing
from tests.commands import wait_until
from tests.unit.doctor.targets import add, crash, hang, refuse

ROOT = Path(__file__).parents[3]


def gone(pids: Path) -> bool:
    return not any(alive(int(pid)) for pid in pids.read_text().split())


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_answers_and_failures_side_by_side(capfd: pytest.CaptureFixture[str]) -> None:
    with Probing() as probing:
        answer = probing.start(add, 2, 3, timeout_s=60)
        refused = probing.start(refuse, timeout_s=60).result()
        crashed = probing.start(crash, timeout_s=60).result()
        assert answer.result() == 5
    assert isinstance(refused, ProbeFailed)
    assert refused.reason == "ValueError: it is broken"
    assert "last words" in refused.output
    assert crashed == ProbeFailed(reason="its process died of SIGSEGV", output="about to crash")
    assert capfd.readouterr() == ("", "")


def test_a_probe_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with Probing() as probing:
        found = probing.start(hang, str(pids), timeout_s=5).result()
    assert found == ProbeFailed(reason="no answer within 5 s", timed_out=True)
    wait_until(lambda: gone(pids))


def test_leaving_early_ends_probes(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with Probing() as probing:
        probing.start(hang, str(pids), timeout_s=900)
        wait_until(lambda: pids.exists() and pids.read_text())
    wait_until(lambda: gone(pids))


def test_a_probe_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "from raydsinfer.doctor.probing import Probing; from tests.unit.doctor.targets import hang\n"
        f"with Probing() as probing: probing.start(hang, {str(pids)!r}, timeout_s=900).result()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    probe, child = map(int, pids.read_text().split())
    parent.kill()
    parent.wait()
    wait_until(lambda: not alive(probe))
    psutil.Process(child).kill()  # in a session of its own, which nobody is left to look for
