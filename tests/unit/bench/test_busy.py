from __future__ import annotations

from raydsinfer.bench.busy import BusyShare


def test_of_a_cpu_nothing_is_known() -> None:
    with BusyShare("cpu") as busy:
        pass
    assert busy.share is None


def test_a_driver_that_does_not_answer_stops_nothing() -> None:
    with BusyShare("cuda:97") as busy:
        pass
    assert busy.share is None
