"""Engines one after the other, each in fresh processes on the same model."""

from __future__ import annotations

import dataclasses
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from raydsinfer.bench.ranks import run_on_ranks
from raydsinfer.bench.throughput.case import EngineCase
from raydsinfer.bench.throughput.measure import measure
from raydsinfer.bench.throughput.results import NOT_REACHED, EngineResult, WorkloadResult
from raydsinfer.bench.workloads import Workload, uniform
from raydsinfer.config import EngineConfig
from raydsinfer.errors import RaydsinferError, UnsupportedError, WorkerGroupError

_WARM_UP_ROWS = 8


@dataclass(frozen=True, kw_only=True)
class ThroughputSuite:
    """What to measure.

    Args:
        model: Directory, URL or hub name.
        configs: Label of each engine → its settings.
        workloads: For each of them.
        tp_size: Number of ranks, on this machine.
        device: ``cpu`` or ``cuda``.
        rounds: How often each workload is timed.
        timeout_s: Seconds for one engine, all of it.
    """

    model: str
    configs: Mapping[str, EngineConfig]
    workloads: tuple[Workload, ...]
    tp_size: int
    device: str
    rounds: int = 3
    timeout_s: float = 3600.0

    def run(self, tell: Callable[[str], None]) -> Iterator[EngineResult]:
        """Measure engine after engine. One that fails is told as such; the others are measured all the same.

        Args:
            tell: Gets a line of words about what is done now.
        """
        warm_up = uniform(_WARM_UP_ROWS, vocab_size=self.workloads[0].vocab_size)
        for label, config in self.configs.items():
            tell(f"measuring {label} on {self.tp_size} rank{'s' if self.tp_size > 1 else ''}")
            with tempfile.TemporaryDirectory() as scratch:
                case = EngineCase(
                    label=label,
                    model=self.model,
                    config=config,
                    workloads=self.workloads,
                    warm_up=warm_up,
                    rounds=self.rounds,
                    progress_path=str(Path(scratch) / "progress"),
                )
                yield self._result(case)

    def _result(self, case: EngineCase) -> EngineResult:
        try:
            first, *_ = run_on_ranks(self.tp_size, measure, case, timeout_s=self.timeout_s, device=self.device)
        except WorkerGroupError as error:
            cause = next(iter(error.causes.values()))
            if isinstance(
                cause, UnsupportedError
            ):  # nothing failed: this engine is not for this model or so many ranks
                return EngineResult(label=case.label, workloads=_without(case, str(cause)))
            return dataclasses.replace(_so_far(case), failure=str(error))
        except RaydsinferError as error:
            return dataclasses.replace(_so_far(case), failure=str(error))
        result: EngineResult = first
        return result


def _so_far(case: EngineCase) -> EngineResult:
    """What an engine that failed had measured before."""
    path = Path(case.progress_path)
    if path.exists():
        found: EngineResult = pickle.loads(path.read_bytes())  # noqa: S301 - our own rank 0 wrote it
        return found
    return EngineResult(label=case.label, workloads=_without(case, NOT_REACHED))


def _without(case: EngineCase, problem: str) -> tuple[WorkloadResult, ...]:
    return tuple(WorkloadResult(name=workload.name, problem=problem) for workload in case.workloads)
