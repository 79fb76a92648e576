"""What the measurements say: rates, shares of the roofline, waste, ratios. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from raydsinfer.bench.roofline import Floor, Rates, floor_of
from raydsinfer.bench.throughput.results import NOT_REACHED, EngineResult, Round, WorkloadResult
from raydsinfer.bench.throughput.waste import idle_share, page_waste, static_waste
from raydsinfer.bench.workloads import Workload, uniform

PHASES = ("schedule", "prepare", "launch", "wait", "commit")
"""Where a step of the continuous engine spends its time."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One engine on one workload; medians of its rounds.

    Args:
        workload: Name.
        engine: Label.
        problem: Why there are no figures.
        batch: Requests of a `uniform` workload; 0 for others.
        seconds: From the first request to the last answer.
        fastest_s: Of the rounds.
        slowest_s: Of the rounds.
        new_tokens: Generated.
        prompt_tokens: Read.
        new_tokens_per_s: The measure of offline generation.
        total_tokens_per_s: Prompt tokens counted too.
        num_steps: Forward passes.
        step_ms: Seconds over steps, reading the prompts included.
        floor: The least time of this workload; see `bench.roofline`.
        roofline_share: Floor over seconds.
        waste_share: Static: padding and idle rows among all computed positions. Continuous: places in its steps that
            gave no token.
        page_waste_share: Of the held pages of a KV cache, what no token fills; by arithmetic.
        busy_share: Of the GPU.
        phases_s: Where the time went, as the engine counts it.
        mean_running: Sequences at work in a step, if the engine counts them.
        graph_share: Of its steps, replayed from CUDA graphs.
        prefill_share: Of its steps, with some prefill.
        statistics: All that it counts.
        ratio: New tokens per second over those of the first engine.
        equal_rows_share: Answers with the same tokens as the first engine's, in the first round.
    """

    workload: str
    engine: str
    problem: str = ""
    batch: int = 0
    seconds: float = 0.0
    fastest_s: float = 0.0
    slowest_s: float = 0.0
    new_tokens: int = 0
    prompt_tokens: int = 0
    new_tokens_per_s: float = 0.0
    total_tokens_per_s: float = 0.0
    num_steps: int = 0
    step_ms: float = 0.0
    floor: Floor | None = None
    roofline_share: float | None = None
    waste_share: float | None = None
    page_waste_share: float | None = None
    busy_share: float | None = None
    phases_s: dict[str, float] = field(default_factory=dict)
    mean_running: float | None = None
    graph_share: float | None = None
    prefill_share: float | None = None
    statistics: dict[str, float] = field(default_factory=dict)
    ratio: float | None = None
    equal_rows_share: float | None = None


def all_figures(results: Sequence[EngineResult], workloads: Sequence[Workload], max_running: int) -> list[Figures]:
    """Workload by workload, the engines in their order.

    Args:
        results: Of the engines; the first is what the others are compared with.
        workloads: That they ran.
        max_running: Requests at once that the floor reckons with.
    """
    rates = best_rates(results)
    return [_figures(result, workload, results[0], rates, max_running) for workload in workloads for result in results]


def best_rates(results: Iterable[EngineResult]) -> Rates | None:
    """The device was measured before each engine: the best counts for all, so that they share one floor."""
    measured = [result.rates for result in results if result.rates]
    if not measured:
        return None
    return Rates(
        bytes_per_s=max(rates.bytes_per_s for rates in measured),
        operations_per_s=max(rates.operations_per_s for rates in measured),
    )


def _figures(
    result: EngineResult, workload: Workload, first: EngineResult, rates: Rates | None, max_running: int
) -> Figures:
    found = _of(result, workload)
    if not found.rounds:
        problem = found.problem if found.problem != NOT_REACHED else result.failure or found.problem
        return Figures(workload=workload.name, engine=result.label, batch=workload.batch, problem=problem)
    seconds = _median(found.rounds, "seconds")
    steps = round(_median(found.rounds, "num_steps"))
    floor = floor_of(workload, result.cost, rates, max_running) if result.cost and rates else None
    counted = _median_statistics([run.statistics for run in found.rounds])
    baseline = _of(first, workload).rounds
    busy = [run.busy_share for run in found.rounds if run.busy_share is not None]
    continuous = result.batching == "continuous"
    return Figures(
        workload=workload.name,
        engine=result.label,
        batch=workload.batch,
        seconds=seconds,
        fastest_s=min(run.seconds for run in found.rounds),
        slowest_s=max(run.seconds for run in found.rounds),
        new_tokens=workload.num_new_tokens,
        prompt_tokens=workload.num_prompt_tokens,
        new_tokens_per_s=workload.num_new_tokens / seconds,
        total_tokens_per_s=(workload.num_new_tokens + workload.num_prompt_tokens) / seconds,
        num_steps=steps,
        step_ms=seconds / steps * 1000,
        floor=floor,
        roofline_share=floor.seconds / seconds if floor else None,
        waste_share=idle_share(workload.requests, steps, result.rows_at_once)
        if continuous
        else static_waste(workload.requests, result.rows_at_once).share,
        page_waste_share=page_waste(workload.requests, result.page_size) if result.page_size else None,
        busy_share=sum(busy) / len(busy) if busy else None,
        phases_s=phases_of(counted),
        mean_running=_a_step(counted, "running_sum"),
        graph_share=_a_step(counted, "graph_steps"),
        prefill_share=_a_step(counted, "prefill_steps"),
        statistics=counted,
        ratio=_median(baseline, "seconds") / seconds if baseline else None,
        equal_rows_share=_equal_rows(found.rounds[0], baseline[0]) if baseline else None,
    )


def _of(result: EngineResult, workload: Workload) -> WorkloadResult:
    missing = WorkloadResult(name=workload.name, problem=NOT_REACHED)
    return next((found for found in result.workloads if found.name == workload.name), missing)


def _median(rounds: Iterable[Round], name: str) -> float:
    return float(median(getattr(run, name) for run in rounds))


def _median_statistics(counted: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: median(one.get(name, 0.0) for one in counted) for name in counted[0]}


def _a_step(counted: Mapping[str, float], name: str) -> float | None:
    return counted[name] / counted["steps"] if name in counted and counted.get("steps") else None


def phases_of(statistics: Mapping[str, float]) -> dict[str, float]:
    """Seconds by phase, of what a continuous engine counts."""
    return {phase: statistics[f"{phase}_s"] for phase in PHASES if f"{phase}_s" in statistics}


def _equal_rows(one: Round, other: Round) -> float:
    equal = sum(a == b for a, b in zip(one.row_digests, other.row_digests, strict=True))
    return equal / len(one.row_digests)


def roofline_curve(
    result: EngineResult, rates: Rates, batches: Sequence[int], max_running: int
) -> list[tuple[int, float]]:
    """New tokens per second that the roofline allows for uniform batches, at every doubling between the given ones.

    Args:
        result: Of an engine that was loaded.
        rates: Of the device.
        batches: Any, at least one.
        max_running: Requests at once that the floor reckons with.
    """
    if result.cost is None or not batches:
        return []
    points = {*batches, *(2**power for power in range(20) if min(batches) <= 2**power <= max(batches))}
    curve = []
    for batch in sorted(points):
        workload = uniform(batch)
        curve.append((batch, workload.num_new_tokens / floor_of(workload, result.cost, rates, max_running).seconds))
    return curve
