import pytest
from ray.exceptions import GetTimeoutError

from raydsinfer.errors import (
    CorruptCheckpointError,
    EngineError,
    InvalidSettingError,
    RankDiedError,
    RankTimeoutError,
    WorkerGroupError,
)
from raydsinfer.groups.verdicts import JobIsOver, can_only_repeat, in_short, is_same_failure

ENGINE = EngineError(doing="load", reason="no such symbol")
DIED = RankDiedError(process="process 12 on node 10.0.0.1", reason="nobody asked it to")
ALSO_DIED = RankDiedError(process="process 13 on node 10.0.0.2", reason="nobody asked it to")
STUCK = RankTimeoutError(process="process 12 on node 10.0.0.1", timeout_s=5, stack="read (files.py:3)")


def failure(*causes: BaseException, phase: str = "load") -> WorkerGroupError:
    return WorkerGroupError(gang="g", phase=phase, causes=dict(enumerate(causes)))


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (failure(ENGINE), False),
        (failure(DIED), False),
        (failure(STUCK), False),
        (failure(DIED, CorruptCheckpointError(path="/model", reason="cut off")), True),
        (failure(InvalidSettingError(name="max_tokens", value=1, expected="2")), True),
        (failure(JobIsOver(), phase="placement"), True),
        (failure(DIED, phase="placement"), True),  # the keeper
        (failure(GetTimeoutError("the keeper was slow"), phase="placement"), False),
        (failure(RuntimeError("its placement group was removed while it waited"), phase="placement"), False),
    ],
)
def test_wrong_settings_wrong_models_and_lost_leases_can_only_repeat(error, verdict):
    assert can_only_repeat(error) is verdict


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (failure(ENGINE), failure(ENGINE, ENGINE), True),
        (failure(ENGINE), failure(ENGINE, phase="rendezvous"), False),
        (failure(ENGINE), failure(EngineError(doing="load", reason="out of memory")), False),
        (failure(STUCK), failure(RankTimeoutError(process="process 99", timeout_s=5, stack="another")), True),
        # Somebody may have killed both; but not when nothing was loaded yet.
        (failure(DIED), failure(ALSO_DIED), False),
        (failure(DIED, phase="start"), failure(ALSO_DIED, phase="start"), True),
    ],
)
def test_failures_are_the_same_if_chance_had_no_part_in_them(first, second, same):
    assert is_same_failure(first, second) is same


def test_a_failure_in_short_names_equal_causes_once_in_one_line():
    assert in_short(failure(DIED, ENGINE, ALSO_DIED, phase="generate")) == (
        "generate: rank 0, 2: its process ended: nobody asked it to; rank 1: EngineError: load: no such symbol."
    )
    assert in_short(failure(STUCK)) == "load: rank 0: it did not answer within 5 s"


def test_a_long_cause_is_shortened():
    told = in_short(failure(EngineError(doing="load", reason="x" * 5000)))
    assert len(told) < 300
    assert told.endswith("...")
