"""Sums over parts and jobs."""

from __future__ import annotations

from raydsinfer.runs.records import End, Manifest, Start
from raydsinfer.runs.status import status_of


def manifest(settings: str = "a", *, rows: int = 10, errors: int = 0, retried: int = 0, ended: float = 5.0) -> Manifest:
    return Manifest(
        settings=settings,
        num_rows=rows,
        num_errors=errors,
        num_retried=retried,
        num_prompt_tokens=3 * rows,
        num_output_tokens=2 * rows,
        part_bytes=100,
        part_sum="",
        keys_bytes=24 * rows,
        keys_sum="",
        began_at=ended - 2,
        ended_at=ended,
        num_restarts=1,
    )


def start(settings: str = "a", *, num_rows: int | None = 40, began: float = 1.0) -> Start:
    return Start(settings=settings, began_at=began, num_rows=num_rows)


def test_parts_add_up() -> None:
    status = status_of({"1": start()}, {}, {"1": manifest(errors=1), "2": manifest(rows=5, ended=9.0)})
    assert (status.num_done, status.num_failed, status.num_left, status.num_rows) == (14, 1, 25, 40)
    assert (status.num_prompt_tokens, status.num_output_tokens) == (45, 30)
    assert (status.num_seconds, status.num_restarts, status.num_bytes) == (4.0, 2, 200)
    assert (status.began_at, status.last_at, status.finished) == (1.0, 9.0, False)


def test_a_job_that_stored_nothing_yet() -> None:
    status = status_of({"1": start(num_rows=None)}, {}, {})
    assert (status.num_done, status.num_left, status.last_at, status.num_starts) == (0, None, None, 1)


def test_the_last_job_decides_which_rows_are_meant() -> None:
    starts = {"1": start("a"), "2": start("b", num_rows=4, began=2.0), "3": start("a", num_rows=12, began=3.0)}
    manifests = {"1": manifest("a"), "2": manifest("b", rows=3)}
    status = status_of(starts, {"2": End(ended_at=2.5, num_rows=4, num_errors=0)}, manifests)
    assert (status.num_done, status.num_left, status.num_starts, status.num_other_rows) == (10, 2, 2, 3)
    assert (status.began_at, status.finished) == (3.0, False)


def test_failures_that_were_tried_again_count_once() -> None:
    manifests = {"1": manifest(errors=4), "2": manifest(rows=4, errors=1, retried=4)}
    status = status_of({"1": start(num_rows=10)}, {}, manifests)
    assert (status.num_done, status.num_failed, status.num_left) == (9, 1, 0)


def test_rows_that_were_stored_twice_leave_no_fewer_than_none() -> None:
    status = status_of({"1": start(num_rows=15)}, {}, {"1": manifest(), "2": manifest()})
    assert status.num_left == 0


def test_an_end_says_it_all() -> None:
    end = End(ended_at=20.0, num_rows=40, num_errors=2)
    status = status_of({"1": start()}, {"1": end}, {"1": manifest()})
    assert (status.num_done, status.num_failed, status.num_left, status.last_at) == (38, 2, 0, 20.0)
    assert status.finished
