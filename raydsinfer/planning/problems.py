"""What keeps gangs from running, each with its cure. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from raydsinfer.planning.gather import ClusterFacts
from raydsinfer.planning.memory import Memory
from raydsinfer.planning.model import ModelFacts
from raydsinfer.planning.needs import Need
from raydsinfer.planning.placing import Placed
from raydsinfer.planning.verdicts import ENGINES, EngineVerdict
from raydsinfer.planning.wanted import Wanted


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What keeps the gangs from running.

    Args:
        what: In words.
        cure: What to do; empty if nothing is known to help.
    """

    what: str
    cure: str = ""


def problems_of(
    wanted: Wanted,
    model: ModelFacts,
    cluster: ClusterFacts,
    *,
    verdict: EngineVerdict,
    best: EngineVerdict | None,
    memory: Memory,
    fewest: int | None,
    num_ranks: int,
    placed: Sequence[Placed],
    needs: Sequence[Need],
) -> list[Problem]:
    """All of them.

    Args:
        wanted: What was asked for.
        model: The model.
        cluster: The cluster.
        verdict: On the wanted engine and dtype.
        best: What is possible instead; None if nothing is.
        memory: Of the fullest rank.
        fewest: Ranks that the model fits on; None if that is not known, or no number will do.
        num_ranks: Of a gang.
        placed: Where gangs would go.
        needs: Of each node.
    """
    return [
        *_refused(wanted, verdict, best, num_ranks),
        *_short_of_memory(wanted, memory, fewest, num_ranks),
        *_on_weights(model, num_ranks),
        *(Problem(what=f"node {need.node}: {problem}") for need in needs for problem in need.problems),
        *_unplaced(wanted, cluster, placed),
    ]


def _refused(wanted: Wanted, verdict: EngineVerdict, best: EngineVerdict | None, num_ranks: int) -> Iterator[Problem]:
    if verdict.possible is not False:
        return
    instead = verdict.instead or (f"Take {ENGINES[best.engine][0]} in {best.dtype}." if best else "")
    if best is None:
        instead = f"{instead} Nothing else is possible on {_ranks(num_ranks, wanted)} either.".strip()
    yield Problem(what=f"{ENGINES[verdict.engine][0]} in {verdict.dtype}: {verdict.why_not}", cure=instead)


def _short_of_memory(wanted: Wanted, memory: Memory, fewest: int | None, num_ranks: int) -> Iterator[Problem]:
    if not memory.problem:
        return
    cure = memory.hint
    if fewest is not None and fewest > num_ranks:
        cure = f"{cure} It fits on {_ranks(fewest, wanted)}."
    elif fewest is None and wanted.use_gpu and wanted.num_ranks is None:
        cure = f"{cure} No number of these GPUs will do."
    yield Problem(what=memory.problem, cure=cure)


def _on_weights(model: ModelFacts, num_ranks: int) -> Iterator[Problem]:
    if model.stored_problem:
        cure = "Give the directory that save_pretrained wrote, or the name of a model that can be fetched."
        yield Problem(what=f"weights: {model.stored_problem}", cure=cure)
    # DeepSpeed's own form is cut anew for gangs of any size.
    if model.stored and model.stored.form == "ranks" and model.stored.tp_size not in (None, num_ranks):
        yield Problem(
            what=f"the weights were cut for {model.stored.tp_size} ranks, not {num_ranks}",
            cure=f"Use {model.stored.tp_size}, or cut the original weights anew: raydsinfer reshard SRC DST "
            f"--layout ranks --tp {num_ranks}.",
        )


def _ranks(num: int, wanted: Wanted) -> str:
    return f"{num} {'GPU' if wanted.use_gpu else 'rank'}{'s' if num > 1 else ''}"


def _unplaced(wanted: Wanted, cluster: ClusterFacts, placed: Sequence[Placed]) -> list[Problem]:
    homeless = Counter(gang.problem for gang in placed if gang.problem)
    found = []
    for why, count in homeless.items():
        who = f"{count} of {len(placed)} gangs" if len(placed) > 1 else "the gang"
        if wanted.use_gpu and not any(node.num_gpus for node in cluster.nodes):
            cure = "Use --address for a cluster with GPUs, or --cpu-ranks N to run on CPUs."
        elif cluster.holders and "would wait" in why:
            cure = "Wait for those who hold the GPUs, named below, or run fewer gangs."
        else:
            cure = "Add nodes, or ask for fewer ranks or resources."
        found.append(Problem(what=f"no place for {who}: {why}", cure=cure))
    return found
