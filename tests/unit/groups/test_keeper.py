"""What a keeper counts; its leases need Ray."""

from __future__ import annotations

import copy
import time

import pytest

from raydsinfer.groups.keeper import GangKeeper
from raydsinfer.groups.verdicts import JobIsOver


def test_it_knows_since_when_no_batch_was_done() -> None:
    keeper = GangKeeper()
    for progress in (lambda: keeper.count_rows(0, 0), keeper.begin):  # a batch of stored rows is progress, too
        time.sleep(0.05)
        waited_s = keeper.idle_s()
        assert waited_s >= 0.05
        progress()
        assert keeper.idle_s() < waited_s


def test_after_its_job_there_is_no_lease_and_the_reason_survives_a_copy() -> None:
    keeper = GangKeeper()
    keeper.end()
    with pytest.raises(JobIsOver, match="the job that wanted this gang is over") as caught:
        keeper.lease("token", None, 1.0, None)  # type: ignore[arg-type]  # refused before it looks
    assert str(copy.copy(caught.value)) == "the job that wanted this gang is over"
