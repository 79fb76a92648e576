"""How rows come to a gang: enough of them, and none in another gang's way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydsinfer.config import EngineConfig
from raydsinfer.scoring.flow import Flow, plan_flow

STATIC = EngineConfig(batching="static")
CONTINUOUS = EngineConfig(batching="continuous")


def flow(
    config: EngineConfig, batch_size: int | None = None, num_rows: int | None = None, gangs: tuple[int, int] = (1, 1)
) -> tuple[int, int, int]:
    plan = plan_flow(config, batch_size, num_rows=num_rows, min_gangs=gangs[0], max_gangs=gangs[1])
    return plan.batch_size, plan.num_at_once, plan.num_in_flight


@pytest.mark.parametrize("config", [STATIC, EngineConfig(kernel_inject=True), EngineConfig(engine="echo")])
@pytest.mark.parametrize("gangs", [(1, 1), (1, 4)])
def test_a_static_gang_has_one_batch_and_the_next(config: EngineConfig, gangs: tuple[int, int]) -> None:
    assert flow(config, gangs=gangs) == (64, 1, 2)
    assert flow(config, batch_size=1000, num_rows=10, gangs=gangs) == (1000, 1, 2)


def test_a_continuous_gang_has_four_times_as_many_rows_as_it_runs() -> None:
    assert flow(CONTINUOUS) == flow(EngineConfig()) == (64, 16, 16)
    assert flow(CONTINUOUS, batch_size=100) == (100, 11, 11)
    assert flow(CONTINUOUS.replaced({"max_running": 10})) == (2, 20, 20)
    # What may turn out to be static still fills its engine calls.
    assert flow(EngineConfig(max_batch_size=128)) == (256, 4, 4)


def test_a_pool_that_can_grow_has_as_many_again_on_their_way() -> None:
    assert flow(CONTINUOUS, gangs=(1, 4)) == (64, 16, 32)


def test_few_rows_are_shared_by_the_gangs() -> None:
    assert flow(CONTINUOUS, num_rows=512, gangs=(2, 2)) == (64, 4, 4)
    assert flow(CONTINUOUS, num_rows=512, gangs=(1, 2)) == (64, 4, 8)
    assert flow(CONTINUOUS, num_rows=512, gangs=(1, 100)) == (64, 2, 4)
    assert flow(CONTINUOUS, num_rows=100_000, gangs=(2, 2)) == (64, 16, 16)


@given(
    max_running=st.integers(1, 5000),
    batch_size=st.none() | st.integers(1, 10_000),
    num_rows=st.none() | st.integers(1, 100_000),
    min_gangs=st.integers(1, 8),
    more=st.integers(0, 8),
)
def test_two_batches_at_least_and_not_endlessly_many(
    max_running: int, batch_size: int | None, num_rows: int | None, min_gangs: int, more: int
) -> None:
    config = CONTINUOUS.replaced({"max_running": max_running})
    plan = plan_flow(config, batch_size, num_rows=num_rows, min_gangs=min_gangs, max_gangs=min_gangs + more)
    assert isinstance(plan, Flow)
    assert plan.batch_size >= 1
    assert 2 <= plan.num_at_once <= 64
    assert plan.num_in_flight == plan.num_at_once * (2 if more else 1)
