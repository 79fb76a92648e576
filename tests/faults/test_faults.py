"""Some of the faults that `make faults` does by the hundred, on one job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from tests.faults.campaign import run_one
from tests.faults.machine import Machine
from tests.faults.plan import AT_START, Planned, RunPlan

PLAN = RunPlan(
    "ci",
    "continuous",
    (
        Planned("SIGKILL of a rank", AT_START),
        Planned("lost node", 0.1),
        Planned("hang of a rank", 0.3),
        Planned("exception on one rank", 0.4),
        Planned("SIGKILL of a predictor", 0.5),
        Planned("SIGKILL of the driver, then resumed", 0.7),
    ),
)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    ray.shutdown()  # another module's
    with Machine() as machine:
        yield machine


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_rows_come_once_and_right_and_nothing_stays_behind(machine: Machine, tmp_path: Path) -> None:
    report = run_one(machine, PLAN, tmp_path)
    assert report.good, str(report)
    assert report.struck == [fault.kind for fault in PLAN.faults], "a fault found nobody to strike"
