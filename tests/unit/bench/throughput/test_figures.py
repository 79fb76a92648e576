from __future__ import annotations

import pytest

from raydsinfer.bench.roofline import ModelCost, Rates, floor_of
from raydsinfer.bench.throughput.figures import all_figures, best_rates, roofline_curve
from raydsinfer.bench.throughput.results import NOT_REACHED, EngineResult, Round, WorkloadResult
from raydsinfer.bench.workloads import uniform

COST = ModelCost(
    weight_bytes=1e9, kv_bytes_per_token=1e5, block_parameters=5e8, head_parameters=1e7, attention_width=1e4
)
WORKLOADS = (uniform(2), uniform(4))


def rounds(*seconds: float, digests: tuple[int, ...] = (1, 2), **counted: float) -> tuple[Round, ...]:
    return tuple(Round(seconds=s, num_steps=64, statistics=counted, row_digests=digests) for s in seconds)


def engine(label: str, *workloads: WorkloadResult, failure: str = "", bytes_per_s: float = 1e12) -> EngineResult:
    return EngineResult(
        label=label,
        batching="continuous" if label == "continuous" else "static",
        rows_at_once=2,
        page_size=16 if label == "continuous" else 0,
        rates=Rates(bytes_per_s=bytes_per_s, operations_per_s=1e14),
        cost=COST,
        workloads=workloads,
        failure=failure,
    )


def test_medians_rates_and_ratios() -> None:
    counted = {"steps": 64.0, "schedule_s": 0.1, "wait_s": 0.6, "graph_steps": 48.0, "running_sum": 96.0}
    first = engine("continuous", WorkloadResult(name="uniform 2", rounds=rounds(1.0, 9.0, 2.0, **counted)))
    other = engine("static", WorkloadResult(name="uniform 2", rounds=rounds(4.0, digests=(1, 3))), bytes_per_s=2e12)
    one, two = all_figures([first, other], WORKLOADS[:1], max_running=256)
    assert (one.seconds, one.fastest_s, one.slowest_s) == (2.0, 1.0, 9.0)
    assert (one.new_tokens, one.new_tokens_per_s, one.total_tokens_per_s) == (128, 64.0, 192.0)
    assert one.step_ms == 2000 / 64
    assert (one.ratio, two.ratio) == (1.0, 0.5)
    assert (one.equal_rows_share, two.equal_rows_share) == (1.0, 0.5)
    assert one.phases_s == {"schedule": 0.1, "wait": 0.6}
    assert (one.graph_share, one.mean_running, one.prefill_share) == (0.75, 1.5, None)
    assert one.page_waste_share is not None
    assert two.page_waste_share is None
    # One device, measured twice: the better figure is the floor of both.
    floor = floor_of(WORKLOADS[0], COST, Rates(bytes_per_s=2e12, operations_per_s=1e14), 256)
    assert one.floor == two.floor == floor
    assert two.roofline_share == pytest.approx(floor.seconds / 4)


def test_what_was_not_measured_says_why() -> None:
    first = engine("continuous", *(WorkloadResult(name=w.name, problem="does not fit") for w in WORKLOADS))
    done = WorkloadResult(name="uniform 2", rounds=rounds(1.0))
    second = engine("static", done, WorkloadResult(name="uniform 4", problem=NOT_REACHED), failure="it died")
    third = EngineResult(label="transformers", failure="it never started")
    figures = all_figures([first, second, third], WORKLOADS, max_running=256)
    said = ["does not fit", "", "it never started", "does not fit", "it died", "it never started"]
    assert [row.problem for row in figures] == said
    assert figures[1].ratio is None
    assert best_rates([third]) is None


def test_the_curve_meets_the_floor_of_each_batch() -> None:
    result = engine("static")
    rates = Rates(bytes_per_s=1e12, operations_per_s=1e14)
    curve = dict(roofline_curve(result, rates, [1, 24], max_running=256))
    assert list(curve) == [1, 2, 4, 8, 16, 24]
    assert curve[24] == 24 * 64 / floor_of(uniform(24), COST, rates, 256).seconds
    assert list(curve.values()) == sorted(curve.values())
