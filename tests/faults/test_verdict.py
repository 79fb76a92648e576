"""The harness sees what is wrong, and plans the same run again from the same seed."""

from __future__ import annotations

from typing import Any

from tests.faults.injectors import KINDS
from tests.faults.job import EVERY_NTH_IS_BAD, Job
from tests.faults.plan import MOST_FAULTS, plan_run
from tests.faults.verdict import echoed, judge

JOB = Job(path="job.json", address="", num_rows=EVERY_NTH_IS_BAD + 3, run_dir="")


def right() -> list[dict[str, Any]]:
    """What a job that was not struck gives."""
    rows = JOB.rows()
    return [
        {"id": row["id"], "output": row["prompt"], "error": "" if row["prompt"] else "prompt: empty"} for row in rows
    ]


def test_a_right_result_is_good() -> None:
    assert str(judge(JOB, right(), echoed(JOB))) == "good"


def test_lost_duplicated_wrong_and_left_are_seen() -> None:
    rows = right()
    rows[3]["output"] = "something else"
    rows[4] = {"id": 4, "output": "", "error": "gang: told to fail"}
    rows.append(rows[5])
    found = judge(JOB, [row for row in rows if row["id"] != 7], echoed(JOB), ["actors: Worker ALIVE"])
    assert (found.lost, found.duplicated, list(found.wrong)) == ((7,), (5,), [3, 4])
    assert "1 lost: [7]" in str(found)
    assert not found.good


def test_a_row_that_should_fail_may_not_be_answered() -> None:
    assert list(judge(JOB, right(), echoed(JOB, {2: "gang"})).wrong) == [2]


def test_a_seed_gives_the_same_run_and_another_one_another() -> None:
    assert plan_run(5, 1) == plan_run(5, 1)
    assert len({plan_run(5, number) for number in range(20)}) == 20


def test_every_kind_comes_up_in_two_hundred_faults() -> None:
    drawn = [fault.kind for number in range(60) for fault in plan_run(0, number).faults]
    assert set(drawn) == set(KINDS)
    assert len(drawn) >= 200


def test_the_engine_is_told_of_one_kind_of_fault_at_most() -> None:
    for number in range(50):
        faults = plan_run(1, number).faults
        assert len(faults) <= MOST_FAULTS
        assert len({fault.kind for fault in faults if KINDS[fault.kind].echo_fault is not None}) <= 1
