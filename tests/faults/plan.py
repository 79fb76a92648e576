"""Which faults strike which run, and when: from a seed alone."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.faults.injectors import KINDS

FEWEST_FAULTS, MOST_FAULTS = 3, 7
AT_START = 0.0


@dataclass(frozen=True)
class Planned:
    """A fault to come.

    Args:
        kind: Of `KINDS`.
        at: Share of the rows that are done when it strikes; 0: while the gangs start.
    """

    kind: str
    at: float


@dataclass(frozen=True)
class RunPlan:
    """What happens to one job.

    Args:
        name: Seed and number: the same name gives the same plan.
        batching: How the engine batches.
        faults: In the order in which they strike.
    """

    name: str
    batching: str
    faults: tuple[Planned, ...]

    @property
    def echo_fault(self) -> Mapping[str, object] | None:
        """What the echo engine is told; a run has one such kind at most."""
        told = [KINDS[fault.kind].echo_fault for fault in self.faults]
        return next((fault for fault in told if fault is not None), None)


def plan_run(seed: int, number: int, kinds: Iterable[str] = tuple(KINDS)) -> RunPlan:
    """Choose the faults of a run.

    Args:
        seed: Of the campaign.
        number: Of the run in it.
        kinds: Those to choose from.
    """
    name = f"{seed}/{number}"
    generator = random.Random(name)  # noqa: S311
    known = {kind: KINDS[kind] for kind in kinds}
    told = [kind for kind, what in known.items() if what.echo_fault is not None]
    trap = generator.choices(told, [known[kind].share for kind in told])[0] if told else ""
    choice = [kind for kind in known if kind == trap or kind not in told]
    # The kinds that the engine has to be told of share a run's only trap: as many of them as of the others.
    weights = [sum(known[k].share for k in told) if kind == trap else known[kind].share for kind in choice]
    drawn = generator.choices(choice, weights, k=generator.randint(FEWEST_FAULTS, MOST_FAULTS))
    faults = [Planned(kind, _moment(generator, at_start=known[kind].at_start)) for kind in drawn]
    batching = generator.choice(["static", "continuous"])
    return RunPlan(name, batching, tuple(sorted(faults, key=lambda fault: fault.at)))


def _moment(generator: random.Random, *, at_start: bool) -> float:
    return AT_START if at_start and generator.random() < 0.25 else round(generator.uniform(0.02, 0.9), 3)
