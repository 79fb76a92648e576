"""Who holds the GPUs of a cluster, as far as Ray tells without its dashboard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.placement_group import placement_group_table

from raydsinfer.errors import summary_of
from raydsinfer.planning.command_lines import without_arguments

_JOB_DIGITS = 8  # of Ray's ids of groups and actors: the last ones are those of their job
_ALIVE = 2  # `ActorTableData.ActorState`
_SLACK = 1e-6


@dataclass(frozen=True, kw_only=True)
class Holder:
    """GPUs of one node that one party holds.

    Args:
        node_id: Of the node.
        num_gpus: How many.
        who: In words.
        job: What its job runs, without arguments; empty if that is not known.
    """

    node_id: str
    num_gpus: float
    who: str
    job: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """A placement group that is in place.

    Args:
        group_id: Ray's id of it.
        name: Its name; may be empty.
        gpus_by_node: Node id → GPUs of its bundles there.
    """

    group_id: str
    name: str
    gpus_by_node: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Actor:
    """A living actor.

    Args:
        actor_id: Ray's id of it.
        kind: Name of its class.
        name: Its own; may be empty.
        node_id: Where it runs.
        pid: Of its process.
        num_gpus: That it holds itself, its placement group's apart.
        group_id: Its placement group; empty for none.
    """

    actor_id: str
    kind: str
    name: str
    node_id: str
    pid: int
    num_gpus: float
    group_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Held:
    """What Ray's control plane tells.

    Args:
        groups: Placement groups.
        actors: Those that live.
        jobs: Job id → what it runs.
        problem: Why less is known; empty if nothing is wrong.
    """

    groups: tuple[Group, ...] = ()
    actors: tuple[Actor, ...] = ()
    jobs: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""


def who_holds(held: Held, used_by_node: Mapping[str, float]) -> list[Holder]:
    """Who holds the GPUs, by node; what nobody is known for is a line of its own. Pure.

    Args:
        held: What Ray tells.
        used_by_node: Node id → GPUs that are not free.
    """
    found = [*_by_groups(held), *_by_actors(held)]
    for node_id, used in used_by_node.items():
        left = used - sum(holder.num_gpus for holder in found if holder.node_id == node_id)
        if left > _SLACK:
            who = "tasks, most likely: Ray tells of those through its dashboard only"
            found.append(Holder(node_id=node_id, num_gpus=left, who=who))
    order = list(used_by_node)
    return sorted(found, key=lambda holder: order.index(holder.node_id) if holder.node_id in order else len(order))


def _by_groups(held: Held) -> Iterator[Holder]:
    for group in held.groups:
        for node_id, num_gpus in group.gpus_by_node.items():
            inside = [actor for actor in held.actors if (actor.group_id, actor.node_id) == (group.group_id, node_id)]
            kinds = ", ".join(sorted({actor.kind for actor in inside})) or "nothing that runs"
            pids = ", ".join(str(actor.pid) for actor in inside[:4]) + (", …" if inside[4:] else "")
            who = f"placement group {group.name or group.group_id[:8]} with {kinds}" + (
                f" (pid {pids})" if pids else ""
            )
            job = without_arguments(held.jobs.get(group.group_id[-_JOB_DIGITS:], ""))
            yield Holder(node_id=node_id, num_gpus=num_gpus, who=who, job=job)


def _by_actors(held: Held) -> Iterator[Holder]:
    for actor in held.actors:
        if actor.num_gpus:
            who = f"actor {actor.name or actor.kind} (pid {actor.pid})"
            job = without_arguments(held.jobs.get(actor.actor_id[-_JOB_DIGITS:], ""))
            yield Holder(node_id=actor.node_id, num_gpus=actor.num_gpus, who=who, job=job)


def read_held() -> Held:
    """Ask Ray's control plane. Nothing is raised: what cannot be known is left out, and said."""
    state: Any = ray._private.state  # the public state API needs the dashboard
    try:
        jobs = {job["JobID"]: str(job.get("Entrypoint", "")) for job in state.jobs()}
        table: Mapping[str, Any] = placement_group_table()  # type: ignore[no-untyped-call, unused-ignore]
        groups = tuple(_group(entry) for entry in table.values() if entry["state"] in ("CREATED", "RESCHEDULING"))
    except Exception as error:  # Ray's inner names change between versions
        return Held(problem=f"this Ray does not tell ({summary_of(error)})")
    try:
        return Held(groups=groups, actors=tuple(_actors(state)), jobs=jobs)
    except Exception as error:
        return Held(groups=groups, jobs=jobs, problem=f"this Ray does not tell of actors ({summary_of(error)})")


def _group(entry: Mapping[str, Any]) -> Group:
    gpus: dict[str, float] = {}
    for index, bundle in entry["bundles"].items():
        node_id = entry["bundles_to_node_id"].get(index, "")
        if node_id and bundle.get("GPU"):
            gpus[node_id] = gpus.get(node_id, 0.0) + bundle["GPU"]
    return Group(group_id=entry["placement_group_id"], name=entry["name"], gpus_by_node=gpus)


def _actors(state: Any) -> Iterator[Actor]:
    from ray.core.generated import gcs_pb2

    table: Any = gcs_pb2
    for raw in state.state._global_state_accessor.get_actor_table(None, None):
        entry: Any = table.ActorTableData.FromString(raw)
        if entry.state == _ALIVE:
            yield Actor(
                actor_id=entry.actor_id.hex(),
                kind=entry.class_name,
                name=entry.name,
                node_id=entry.node_id.hex(),
                pid=entry.pid,
                num_gpus=dict(entry.required_resources).get("GPU", 0.0),
                group_id=entry.placement_group_id.hex(),
            )


def used_gpus(nodes: Sequence[Any]) -> dict[str, float]:
    """Node id → GPUs that are not free, of `NodeResources`."""
    used = {node.node_id: node.total.get("GPU", 0.0) - node.free.get("GPU", 0.0) for node in nodes}
    return {node_id: num for node_id, num in used.items() if num > _SLACK}
