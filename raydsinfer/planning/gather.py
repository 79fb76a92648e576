"""Gathers what a plan is made from: the model's small files, a look at each node, who holds what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from raydsinfer.groups.nodes import alive_nodes, node_names
from raydsinfer.groups.placement import NodeResources, read_nodes
from raydsinfer.nodes import NodeResult, run_on_every_node
from raydsinfer.planning.holders import Held, Holder, read_held, used_gpus, who_holds
from raydsinfer.planning.look import Look, Sought, look
from raydsinfer.planning.model import ModelFacts
from raydsinfer.planning.nodes import NodeFacts, node_facts
from raydsinfer.planning.wanted import Wanted

_PROBES_IN_A_ROW = 4  # of a look: some wait for others


@dataclass(frozen=True, kw_only=True)
class ClusterFacts:
    """A cluster.

    Args:
        resources: What Ray counts, by node.
        nodes: What is known of them, in the same order.
        holders: Who holds GPUs.
        holders_problem: Why less is known of those.
    """

    resources: tuple[NodeResources, ...]
    nodes: tuple[NodeFacts, ...]
    holders: tuple[Holder, ...] = ()
    holders_problem: str = ""

    def name_of(self, node_id: str) -> str:
        """What people call a node."""
        return next((node.name for node in self.nodes if node.node_id == node_id), node_id)


def read_cluster(
    wanted: Wanted, model: ModelFacts, *, timeout_s: float, on_node: Callable[[NodeResult[Look]], None] | None = None
) -> ClusterFacts:
    """Look at every living node of the cluster that this process is connected to.

    A node that cannot be looked at is part of the answer.

    Args:
        wanted: What is planned.
        model: What it consists of.
        timeout_s: Seconds for each probe on a node.
        on_node: Called with each node's look as it comes in.
    """
    sought = Sought(
        model=wanted.model,
        listing=model.listing,
        revision=wanted.config.revision,
        hf_home=wanted.config.hf_home,
        timeout_s=timeout_s,
    )
    resources = tuple(read_nodes())
    names = node_names(alive_nodes())
    looks = run_on_every_node(look, (sought,), timeout_s=_PROBES_IN_A_ROW * timeout_s, on_result=on_node)
    nodes = [
        node_facts(node, names.get(node.node_id, node.address), _seen(looks.get(node.node_id)), wanted.assumed)
        for node in resources
    ]
    used = used_gpus(resources)
    held = read_held() if used else Held()
    return ClusterFacts(
        resources=resources,
        nodes=tuple(nodes),
        holders=tuple(who_holds(held, used)),
        holders_problem=held.problem,
    )


def _seen(result: NodeResult[Look] | None) -> Look | BaseException:
    if result is None:
        return RuntimeError("it joined a moment ago")
    if result.value is not None:
        return result.value
    return result.error or RuntimeError("no answer")
