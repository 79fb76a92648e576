"""Where gangs would go on what is free now. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raydsinfer.groups.placement import GangRequest, NodeResources, why_impossible


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Where the ranks of a gang would go.

    Args:
        gang: Number of the gang, from 0.
        ranks_by_node: Id of a node → ranks there; its address where no id is known.
        problem: Why there is no place; empty if there is.
    """

    gang: int
    ranks_by_node: dict[str, int]
    problem: str = ""


def place_gangs(request: GangRequest, num_gangs: int, nodes: Sequence[NodeResources]) -> list[Placed]:
    """Where Ray would put the gangs on what is free now.

    Ray decides in the end; this fills nodes the way its strategies say: PACK the fewest, SPREAD one
    after the other.

    Args:
        request: Of one gang.
        num_gangs: How many.
        nodes: What the cluster has.
    """
    room = [_num_bundles(request, node) for node in nodes]
    placed = []
    for gang in range(num_gangs):
        taken = _take(request, room)
        if sum(taken) == request.num_ranks:
            room = [have - used for have, used in zip(room, taken, strict=True)]
            by_node = {node.node_id or node.address: used for node, used in zip(nodes, taken, strict=True) if used}
            placed.append(Placed(gang=gang, ranks_by_node=by_node))
        else:
            problem = why_impossible(request, nodes) or "nothing is free for it now: it would wait"
            placed.append(Placed(gang=gang, ranks_by_node={}, problem=problem))
    return placed


def _num_bundles(request: GangRequest, node: NodeResources) -> int:
    # Ray counts in ten-thousandths: a little slack keeps 0.3 / 0.1 at three.
    return int(min(node.free.get(name, 0) / amount + 1e-6 for name, amount in request.bundle.items()))


def _take(request: GangRequest, room: Sequence[int]) -> list[int]:
    """Bundles to take from each node, as many as wanted or fewer if there is no room."""
    taken, wanted = [0] * len(room), request.num_ranks
    if request.strategy in ("SPREAD", "STRICT_SPREAD"):
        most = 1 if request.strategy == "STRICT_SPREAD" else max(room, default=0)
        for _ in range(most):
            for node in range(len(room)):
                if taken[node] < room[node] and sum(taken) < wanted:
                    taken[node] += 1
        return taken
    whole = [node for node, have in enumerate(room) if have >= wanted]
    if whole:
        taken[min(whole, key=lambda node: room[node])] = wanted
        return taken
    if request.strategy == "STRICT_PACK":
        return taken
    for node in sorted(range(len(room)), key=lambda node: -room[node]):
        taken[node] = min(room[node], wanted - sum(taken))
    return taken
