"""Some of the faults that `make faults` does by the hundred, on two jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.campaign import run_one
from tests.faults.machine import Machine
from tests.faults.plan import AT_START, Planned, RunPlan

PLANS = [
    RunPlan(
        "ci/0",
        "static",
        (
            Planned("SIGKILL of a rank", AT_START),
            Planned("exception on one rank", 0.2),
            Planned("SIGKILL of the driver, then resumed", 0.5),
        ),
    ),
    RunPlan(
        "ci/1",
        "continuous",
        (Planned("lost node", 0.1), Planned("hang of a rank", 0.3), Planned("SIGKILL of a predictor", 0.6)),
    ),
]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        yield machine


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("plan", PLANS, ids=[plan.name for plan in PLANS])
def test_rows_come_once_and_right_and_nothing_stays_behind(machine: Machine, plan: RunPlan, tmp_path: Path) -> None:
    report = run_one(machine, plan, tmp_path)
    assert report.good, str(report)
    assert report.struck == [fault.kind for fault in plan.faults], "a fault found nobody to strike"
