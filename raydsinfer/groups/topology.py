"""Which actor gets which rank: pure, so that it can be checked without a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class WorkerPlace:
    """Where Ray put the actor of one bundle.

    Args:
        node_id: Ray's id of the node. An address is no substitute: two nodes may share one.
        node_ip: Address of the node, for rendezvous.
        gpu_ids: Ids of the actor's GPUs as Ray gives them, empty on CPU.
        pid: Process id, for messages and for waiting until the process is gone.
        engine_thread: Python's number of the thread that runs the engine.
        dump_descriptor: Where the process writes its stacks, see `raydsinfer.groups.dump`.
    """

    node_id: str
    node_ip: str
    gpu_ids: tuple[str, ...] = ()
    pid: int = 0
    engine_thread: int = 0
    dump_descriptor: int = -1


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One rank of a gang and where it runs.

    Args:
        world_rank: 0 to number of ranks - 1.
        local_rank: Index among the gang's ranks on the node.
        node_rank: Index of the node among the gang's nodes.
        local_world_size: Number of the gang's ranks on the node.
        node_id: Ray's id of the node.
        node_ip: Address of the node.
        gpu_ids: The rank's GPUs, empty on CPU.
        bundle_index: The placement group's bundle that the rank runs in.
        pid: Process id.
        engine_thread: As in `WorkerPlace`.
        dump_descriptor: As in `WorkerPlace`.
    """

    world_rank: int
    local_rank: int
    node_rank: int
    local_world_size: int
    node_id: str
    node_ip: str
    gpu_ids: tuple[str, ...]
    bundle_index: int
    pid: int
    engine_thread: int = 0
    dump_descriptor: int = -1


def assign_ranks(places: Sequence[WorkerPlace]) -> tuple[Rank, ...]:
    """Number the actors of a gang so that neighbours in rank are neighbours in hardware.

    Ranks of one node are consecutive, in the numeric order of their GPU ids; nodes come in the
    order in which the bundles first name them, so the same placement gives the same ranks.

    Args:
        places: Where each bundle's actor runs, by bundle index.

    Returns:
        The ranks in order of world rank.
    """
    by_node: dict[str, list[int]] = {}
    for bundle_index, place in enumerate(places):
        by_node.setdefault(place.node_id, []).append(bundle_index)
    ranks: list[Rank] = []
    for node_rank, members in enumerate(by_node.values()):
        ordered = sorted(members, key=lambda index: (_gpu_order(places[index]), index))
        for local_rank, bundle_index in enumerate(ordered):
            place = places[bundle_index]
            ranks.append(
                Rank(
                    world_rank=len(ranks),
                    local_rank=local_rank,
                    node_rank=node_rank,
                    local_world_size=len(ordered),
                    node_id=place.node_id,
                    node_ip=place.node_ip,
                    gpu_ids=place.gpu_ids,
                    bundle_index=bundle_index,
                    pid=place.pid,
                    engine_thread=place.engine_thread,
                    dump_descriptor=place.dump_descriptor,
                )
            )
    return tuple(ranks)


def meeting_host(ranks: Sequence[Rank]) -> str:
    """Address at which rank 0 can be met: this machine's own where all are on one node, so that nobody else can."""
    return LOOPBACK if ranks[-1].node_rank == 0 else ranks[0].node_ip


def _gpu_order(place: WorkerPlace) -> list[tuple[int, int, str]]:
    # As numbers, or GPU 10 would come before GPU 2; ids that are names (MIG, UUID) come after.
    return [(0, int(gpu), "") if gpu.isdecimal() else (1, 0, gpu) for gpu in place.gpu_ids]
