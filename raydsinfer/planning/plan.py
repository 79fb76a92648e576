"""The plan: what is possible, what it takes, where it would go, what stands against it. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from raydsinfer.groups.placement import GangRequest
from raydsinfer.planning.gather import ClusterFacts
from raydsinfer.planning.gpus import smallest_bytes
from raydsinfer.planning.memory import Memory, rank_memory
from raydsinfer.planning.model import ModelFacts
from raydsinfer.planning.needs import Need, needs_of
from raydsinfer.planning.nodes import NodeFacts
from raydsinfer.planning.placing import Placed, place_gangs
from raydsinfer.planning.problems import Problem, problems_of
from raydsinfer.planning.remarks import remarks_on
from raydsinfer.planning.sizing import fewest_ranks, num_gangs
from raydsinfer.planning.verdicts import (
    Engine,
    EngineVerdict,
    Place,
    best_possible,
    chosen,
    engine_verdicts,
    require_length,
    wanted_dtype,
    wanted_engine,
)
from raydsinfer.planning.wanted import Wanted


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All of it.

    Args:
        wanted: What was asked for.
        model: The model.
        cluster: The cluster.
        num_ranks: Of a gang.
        proposed: Whether nobody asked for that number.
        engine: That the settings ask for.
        dtype: That they mean.
        verdicts: For each engine and dtype.
        best: What is possible where the wanted one is not; None if nothing is, or it is.
        memory: Of the fullest rank, with the wanted engine and dtype.
        request: What a gang asks of the cluster.
        placed: Where each gang would go.
        gangs_now: Gangs that have room now.
        gangs_idle: Gangs that have room if nobody held anything.
        needs: Of each node that gangs may go to.
        problems: What keeps the gangs from running.
        remarks: What is good to know.
    """

    wanted: Wanted
    model: ModelFacts
    cluster: ClusterFacts
    num_ranks: int
    proposed: bool
    engine: Engine
    dtype: str
    verdicts: tuple[EngineVerdict, ...]
    best: EngineVerdict | None
    memory: Memory
    request: GangRequest
    placed: tuple[Placed, ...]
    gangs_now: int
    gangs_idle: int
    needs: tuple[Need, ...]
    problems: tuple[Problem, ...]
    remarks: tuple[str, ...]

    @property
    def verdict(self) -> EngineVerdict:
        """The one of the wanted engine and dtype."""
        return next(v for v in self.verdicts if (v.engine, v.dtype) == (self.engine, self.dtype))


def make_plan(wanted: Wanted, model: ModelFacts, cluster: ClusterFacts) -> Plan:
    """Put a plan together.

    Raises:
        ConfigurationError: Settings that no engine could serve.
    """
    config = wanted.config
    require_length(model, config)
    nodes = eligible(wanted, cluster)
    place = Place(num_ranks=1, use_gpu=wanted.use_gpu, nodes=nodes, assumed=wanted.assumed)
    fewest = fewest_ranks(wanted, model, place) if wanted.use_gpu else 1
    num_ranks = wanted.num_ranks or fewest or 1
    place = replace(place, num_ranks=num_ranks)
    engine, dtype = wanted_engine(config, model, place), wanted_dtype(config, model, place)
    verdicts = tuple(engine_verdicts(model, config, place))
    memory = rank_memory(
        model,
        config,
        engine,
        dtype,
        num_ranks,
        use_gpu=wanted.use_gpu,
        device_bytes=smallest_bytes(place.gpus) if wanted.use_gpu else None,
    )
    request = wanted.request(num_ranks)
    now, idle = num_gangs(request, cluster.resources), num_gangs(request, cluster.resources, idle=True)
    # On CPUs one: what Ray counts there says little of how many models the memory holds.
    gangs = wanted.num_gangs or (max(1, now) if wanted.use_gpu else 1)
    placed = tuple(place_gangs(request, gangs, cluster.resources))
    ranks = sum((Counter(gang.ranks_by_node) for gang in placed), Counter[str]())
    needs = tuple(needs_of(nodes, ranks, model, config, memory, num_ranks=num_ranks, use_gpu=wanted.use_gpu))
    verdict = next(v for v in verdicts if (v.engine, v.dtype) == (engine, dtype))
    best = best_possible(verdicts, dtype, use_gpu=wanted.use_gpu) if verdict.possible is False else None
    problems = problems_of(
        wanted,
        model,
        cluster,
        verdict=verdict,
        best=best,
        memory=memory,
        fewest=fewest,
        num_ranks=num_ranks,
        placed=placed,
        needs=needs,
    )
    return Plan(
        wanted=wanted,
        model=model,
        cluster=cluster,
        num_ranks=num_ranks,
        proposed=wanted.num_ranks is None,
        engine=engine,
        dtype=dtype,
        verdicts=verdicts,
        best=best,
        memory=memory,
        request=request,
        placed=placed,
        gangs_now=now,
        gangs_idle=idle,
        needs=needs,
        problems=tuple(problems),
        remarks=tuple(remarks_on(wanted, model, nodes, engine, placed, memory, chosen(config, model, place).why)),
    )


def eligible(wanted: Wanted, cluster: ClusterFacts) -> tuple[NodeFacts, ...]:
    """The nodes that a gang may go to: all, or those with the GPUs that are wanted."""
    kind = f"accelerator_type:{wanted.accelerator_type}"
    return tuple(
        node
        for node, resources in zip(cluster.nodes, cluster.resources, strict=True)
        if (node.num_gpus or not wanted.use_gpu) and (wanted.accelerator_type is None or kind in resources.total)
    )
