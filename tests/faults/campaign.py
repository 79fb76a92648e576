"""Faults by the hundred: ``python -m tests.faults.campaign --faults 200``, or ``make faults``.

Each run is a job of two gangs of two ranks that some faults strike. When it has ended well, its rows are compared with
what they should be, and the machine with what it was. A run can be repeated by its name: ``--only SEED/NUMBER``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from raydsinfer.runs.store import RunStore
from tests.faults.injectors import KINDS, Scene, strike_patiently
from tests.faults.job import Job
from tests.faults.machine import RANK, Machine, end_in_order, wait_for
from tests.faults.plan import AT_START, RunPlan, plan_run
from tests.faults.verdict import Leftovers, Verdict, echoed, judge

NUM_ROWS = 600
RUN_TIMEOUT_S = 240.0
_DISK = "12m"  # of a run whose disk gets full


@dataclass
class Report:
    """A run that is over.

    Args:
        plan: What was planned.
        struck: Kinds of the faults that struck.
        seconds: How long it took.
        verdict: What became of the rows.
        problem: How the job ended, if not well.
    """

    plan: RunPlan
    struck: list[str] = field(default_factory=list)
    seconds: float = 0.0
    verdict: Verdict | None = None
    problem: str = ""

    @property
    def good(self) -> bool:
        """Whether all is as it should be."""
        return not self.problem and self.verdict is not None and self.verdict.good

    def __str__(self) -> str:
        what = "good" if self.good else f"{self.verdict}; {self.problem}"
        return f"run {self.plan.name} {self.plan.batching} {self.seconds:.0f} s [{', '.join(self.struck)}] {what}"


def run_one(machine: Machine, plan: RunPlan, scratch: Path) -> Report:
    """Do a job, strike it, and look at what became of it.

    Args:
        machine: The cluster.
        plan: The faults.
        scratch: A directory of its own.
    """
    report, began, leftovers = Report(plan), time.monotonic(), Leftovers()
    with small_disk(scratch, needed=any("disk" in fault.kind for fault in plan.faults)) as disk:
        job = make_job(machine, plan, scratch, disk)
        trap = scratch / "trap"
        for path in (trap, *(Path(f"{trap}.{rank}") for rank in range(job.num_ranks))):
            path.touch()  # the echo engine's fault strikes where it is missing
        scene = Scene(machine, machine.start(job), trap, disk, random.Random(plan.name))  # noqa: S311
        for fault in plan.faults:
            if wait_until_due(scene, fault.at) and strike_patiently(KINDS[fault.kind].strike, scene):
                report.struck.append(fault.kind)
        report.problem = ending(scene)
        rows = list(job.written())
        report.verdict = judge(job, rows, echoed(job), leftovers.after())
        if not report.problem:
            report.problem = stored(job)
    report.seconds = time.monotonic() - began
    return report


def make_job(machine: Machine, plan: RunPlan, scratch: Path, disk: Path) -> Job:
    """The job of a run: some seconds' work for two gangs."""
    fault = plan.echo_fault and {"prompt_contains": "row", "once": str(scratch / "trap"), **plan.echo_fault}
    static = plan.batching == "static"
    return Job(
        path=str(scratch / "job.json"),
        address=machine.address,
        num_rows=NUM_ROWS,
        run_dir=str(disk / "run"),
        engine={
            "engine": "echo",
            "batching": plan.batching,
            "max_tokens": 128,
            "max_batch_size": 10,
            "max_running": 16,
            "echo_delay_s": 0.2 if static else 0.02,
            "echo_fault": fault,
        },
        recovery={"max_restarts": 20, "restart_backoff_s": 0.2},
    )


def wait_until_due(scene: Scene, at: float) -> bool:
    """Wait for the moment of a fault; False if the job was over before."""
    if at == AT_START:
        due = lambda: scene.machine.pids(RANK)  # noqa: E731
    else:
        due = lambda: scene.driver.num_done() >= at * scene.driver.job.num_rows  # noqa: E731
    wait_for(lambda: due() or not scene.driver.running, RUN_TIMEOUT_S)
    return scene.driver.running


def ending(scene: Scene) -> str:
    """Wait for the job's end; what went wrong with it."""
    code = scene.driver.wait(RUN_TIMEOUT_S)
    if code is None:
        scene.driver.kill()
        return f"it did not end within {RUN_TIMEOUT_S:g} s"
    error = scene.driver.job.error_path
    said = json.loads(error.read_text()) if error.exists() else {}
    return "" if code == 0 else f"it ended with {code}: {said.get('type')}: {said.get('text')}"[:2000]


def stored(job: Job) -> str:
    """What is wrong with the run directory: every row that can be answered should be there, once."""
    index = RunStore(job.run_dir).build_index()
    rows = [row for number in range(len(index.parts)) for row in index.read_part(number).to_pylist()]
    ids = [row["id"] for row in rows if row["error"] == ""]
    wanted = {row["id"] for row in job.rows() if row["prompt"]}
    twice = sum(count > 1 for count in Counter(ids).values())
    wrong = sum(row["output"] != job.prompt(row["id"]) for row in rows)
    missing = len(wanted - set(ids))
    return f"run directory: {missing} missing, {twice} twice, {wrong} wrong" if missing or twice or wrong else ""


@contextmanager
def small_disk(scratch: Path, *, needed: bool) -> Iterator[Path]:
    """A directory for the run; on a file system of its own, which can get full, where that is needed and allowed."""
    disk = scratch / "disk"
    disk.mkdir()
    mounted = needed and can_mount() and mount(disk)
    try:
        yield disk
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(disk)], check=False)  # noqa: S607


def can_mount() -> bool:
    """Whether this user may make a file system."""
    return os.geteuid() == 0 and shutil.which("mount") is not None


def mount(disk: Path) -> bool:
    """Make one in memory; False if this place forbids it after all."""
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", disk], check=False)  # noqa: S607
    return made.returncode == 0


def campaign(
    num_faults: int, seed: int, *, first: int = 0, only: str = "", kinds: tuple[str, ...] = ()
) -> list[Report]:
    """Run after run until so many faults have struck.

    Args:
        num_faults: How many.
        seed: What the plans are drawn from.
        first: Number of the first run.
        only: Name of the one run to do.
        kinds: Faults to choose from; none: all that this machine can bear.
    """
    possible = kinds or tuple(kind for kind in KINDS if "disk" not in kind or can_mount())
    reports: list[Report] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as root, Machine() as machine:
        while sum(len(report.struck) for report in reports) < num_faults and not (only and reports):
            number = first + len(reports)
            plan = plan_run(*map(int, only.split("/")), possible) if only else plan_run(seed, number, possible)
            scratch = Path(root) / str(number)
            scratch.mkdir()
            reports.append(run_one(machine, plan, scratch))
            print(reports[-1], flush=True)
            if not reports[-1].good and os.environ.get("FAULTS_KEEP"):
                shutil.copytree(scratch, Path(os.environ["FAULTS_KEEP"]) / plan.name.replace("/", "-"))
    return reports


def table(reports: list[Report]) -> str:
    """A line a kind of fault: how many struck, and what was wrong with the runs that they were in."""
    lines = [
        "| fault | struck | rows lost | duplicated | wrong | left behind | jobs not ended well |",
        "|" + " --- |" * 7,
    ]
    for kind in [*KINDS, "all"]:
        if not any(kind in (*report.struck, "all") for report in reports):
            continue
        of_kind = [report for report in reports if kind == "all" or kind in report.struck]
        struck = sum(len(report.struck) if kind == "all" else report.struck.count(kind) for report in of_kind)
        verdicts = [report.verdict for report in of_kind if report.verdict is not None]
        sums = [sum(len(getattr(v, name)) for v in verdicts) for name in ("lost", "duplicated", "wrong", "left")]
        cells = [kind, struck, *sums, sum(bool(report.problem) for report in of_kind)]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> int:
    """Entry point; 0 if nothing was lost, duplicated, wrong or left behind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--only", default="", metavar="SEED/NUMBER")
    parser.add_argument("--kind", action="append", default=[], choices=list(KINDS))
    given = parser.parse_args()
    end_in_order()
    began = time.monotonic()
    reports = campaign(given.faults, given.seed, first=given.first, only=given.only, kinds=tuple(given.kind))
    print(f"\n{table(reports)}\n\n{len(reports)} runs, {time.monotonic() - began:.0f} s, seed {given.seed}")
    return 0 if all(report.good for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
