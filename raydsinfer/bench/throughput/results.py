"""What one engine brought, as its rank 0 saw it."""

from __future__ import annotations

from dataclasses import dataclass, field

from raydsinfer.bench.roofline import ModelCost, Rates

NOT_REACHED = "not reached"
"""The problem of workloads that an engine had before it when it stopped."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """One run of a workload.

    Args:
        seconds: From the first request to the last answer.
        num_steps: Forward passes.
        busy_share: Of the GPU; None if not known.
        statistics: What the engine counted meanwhile, seconds by phase among it.
        row_digests: A number for the tokens of each answer, in the order of the requests.
    """

    seconds: float
    num_steps: int
    busy_share: float | None = None
    statistics: dict[str, float] = field(default_factory=dict)
    row_digests: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WorkloadResult:
    """One workload on one engine.

    Args:
        name: The workload's.
        rounds: In their order; none if there is a problem.
        problem: Why there is nothing.
    """

    name: str
    rounds: tuple[Round, ...] = ()
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class EngineResult:
    """All workloads on one engine.

    Args:
        label: The engine's.
        mode: Of `LoadReport`.
        batching: Of `LoadReport`.
        note: Of `LoadReport`.
        rows_at_once: Rows of the largest batch, or sequences that may run at once.
        page_size: Tokens of a page of the KV cache; 0 if it has none.
        num_kv_tokens: That its KV cache holds; 0 if not known.
        parameter_bytes: On the rank that has most.
        rates: Of rank 0's device; None if it came to nothing.
        cost: Of the model on the rank that has most.
        start_up_s: Of `Engine.load`, imports included.
        phases_s: What `Engine.load` reported.
        warm_up_s: Of the untimed workload before the others.
        workloads: In their order.
        failure: Why the engine stopped, or never started.
    """

    label: str
    mode: str = ""
    batching: str = ""
    note: str = ""
    rows_at_once: int = 0
    page_size: int = 0
    num_kv_tokens: int = 0
    parameter_bytes: int = 0
    rates: Rates | None = None
    cost: ModelCost | None = None
    start_up_s: float = 0.0
    phases_s: dict[str, float] = field(default_factory=dict)
    warm_up_s: float = 0.0
    workloads: tuple[WorkloadResult, ...] = ()
    failure: str = ""
