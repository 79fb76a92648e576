"""The fewest ranks that a model fits on, and how many such gangs a cluster holds. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raydsinfer.groups.placement import GangRequest, NodeResources
from raydsinfer.planning.gpus import smallest_bytes
from raydsinfer.planning.memory import rank_memory
from raydsinfer.planning.model import ModelFacts
from raydsinfer.planning.placing import place_gangs
from raydsinfer.planning.verdicts import Place, engine_verdict, wanted_dtype, wanted_engine
from raydsinfer.planning.wanted import Wanted

_MOST_GANGS = 1000  # enough for any cluster to be told apart from a full one


def fewest_ranks(wanted: Wanted, model: ModelFacts, place: Place) -> int | None:
    """The fewest GPUs on which weights and at least one row of `max_tokens` fit.

    Args:
        wanted: Settings; with kernel injection all rows that the kernels reserve must fit.
        model: The model.
        place: The GPUs; its number of ranks does not count.

    Returns:
        The number; None if the memory of the GPUs is not known, or no number will do.
    """
    device_bytes = smallest_bytes(place.gpus)
    if device_bytes is None:
        return None
    dtype = wanted_dtype(wanted.config, model, place)
    anywhere = Place(num_ranks=1, use_gpu=True)  # a dtype that these GPUs lack is another's problem
    for num_ranks in range(1, model.num_kv_heads + 1):
        engine = wanted_engine(wanted.config, model, replace(place, num_ranks=num_ranks))
        verdict = engine_verdict(model, wanted.config, replace(anywhere, num_ranks=num_ranks), engine, dtype)
        if verdict.possible is False:
            continue
        memory = rank_memory(model, wanted.config, engine, dtype, num_ranks, use_gpu=True, device_bytes=device_bytes)
        if not memory.problem:
            return num_ranks
    return None


def num_gangs(request: GangRequest, nodes: Sequence[NodeResources], *, idle: bool = False) -> int:
    """How many gangs have room.

    Args:
        request: Of one gang.
        nodes: What the cluster has.
        idle: If nobody held anything, instead of now.
    """
    if idle:
        nodes = [replace(node, free=node.total) for node in nodes]
    most = min(
        _MOST_GANGS,
        *(int(sum(n.total.get(name, 0) for n in nodes) / amount) for name, amount in request.bundle.items()),
    )
    return sum(not gang.problem for gang in place_gangs(request, max(0, most), nodes))
