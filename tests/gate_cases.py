"""Engines to load that are right or wrong, with the gate, on process groups of plain processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raydsinfer.config import EngineConfig
from raydsinfer.engines.base import EngineSpec, LoadReport, RankContext
from raydsinfer.engines.verification.golden import write_golden
from raydsinfer.errors import VerificationError


@dataclass
class Case:
    """An engine to load, with a fault or without, and what came of it."""

    model: Path
    config: dict[str, Any] = field(default_factory=dict)
    fault: str = ""
    golden_to: Path | None = None
    report: LoadReport | None = None
    error: Exception | None = None

    @property
    def differences(self) -> str:
        assert isinstance(self.error, VerificationError), (self.fault, self.error, self.report)
        [(_, lines)] = self.error.attempts
        return "\n".join(lines)

    @property
    def source(self) -> str:
        assert self.report is not None, self.error
        assert self.report.verification is not None, self.report.note
        assert not self.report.verification.problems
        return self.report.verification.source


def load(context: RankContext, cases: list[Case]) -> list[Case]:
    """On each rank: load each engine."""
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine
    from tests.model_faults import damage

    for case in cases:
        config = EngineConfig(**{"max_tokens": 96, "max_batch_size": 4, "verify": "always"} | case.config)
        engine = DeepSpeedEngine(EngineSpec(model=str(case.model), config=config), context)
        if case.fault:
            damage(engine, case.fault)
        try:
            case.report = engine.load()
        except Exception as error:
            case.error = error
        else:
            if case.golden_to is not None and context.world_rank == 0:
                write_golden(case.golden_to, case.report.verification.golden)
        engine.close()
        if context.world_rank == 0:
            print(f"{case.model.name} {case.config} {case.fault}: {case.error or 'loaded'}"[:400], flush=True)
    return cases
