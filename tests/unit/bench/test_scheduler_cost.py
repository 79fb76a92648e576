"""The scheduler's cost is measured in the state that was asked for."""

from __future__ import annotations

from raydsinfer.bench.scheduler_cost import scheduler_costs


def test_each_load_is_measured_in_a_steady_state() -> None:
    costs = scheduler_costs([(1, 0), (16, 40)], num_steps=50)
    assert [(cost.num_running, cost.num_waiting) for cost in costs] == [(1, 0), (16, 40)]
    for cost in costs:
        assert cost.num_steps == 50
        assert 0 < cost.median_us <= cost.p99_us <= cost.max_us
        assert cost.mean_us <= cost.max_us
    assert costs[1].num_started > 0


def test_a_full_cache_limits_how_many_run_before_the_slots_do() -> None:
    (cost,) = scheduler_costs([(16, 40)], num_steps=50, memory_bound=True)
    assert cost.memory_bound
    assert 8 < cost.num_running < 32
    assert cost.num_waiting > 0
