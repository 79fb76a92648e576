from __future__ import annotations

import pytest

from raydsinfer.engines.continuous.statistics import Statistics


@pytest.mark.parametrize("phase", ["schedule", "launch", "wait", "commit"])
def test_seconds_of_a_phase_add_up_even_if_it_fails(phase: str) -> None:
    statistics = Statistics()
    with statistics.timed(phase):
        sum(range(1000))
    first = statistics.as_dict()
    assert first[f"{phase}_s"] > 0
    with pytest.raises(ZeroDivisionError), statistics.timed(phase):
        raise ZeroDivisionError
    second = statistics.as_dict()
    assert second[f"{phase}_s"] > first[f"{phase}_s"]
    assert {name for name, value in second.items() if value} == {f"{phase}_s"}


def test_all_counts_have_names() -> None:
    counts = Statistics(steps=3, preemptions=2).as_dict()
    assert counts["steps"] == 3
    assert counts["preemptions"] == 2
    assert counts["wait_s"] == 0.0
