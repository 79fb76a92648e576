"""The cluster's living nodes: which there are, which are meant, and what people call them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray

from raydsinfer.errors import InvalidSettingError


@dataclass(frozen=True, kw_only=True)
class Node:
    """One living node.

    Args:
        node_id: Ray's id of the node.
        ip: Its address. No substitute for the id: two nodes may share one.
        resources: Resource name → amount when idle.
        labels: Ray's labels of the node.
    """

    node_id: str
    ip: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]

    @property
    def num_cpus(self) -> float:
        """CPUs when idle."""
        return self.resources.get("CPU", 0.0)

    @property
    def num_gpus(self) -> float:
        """GPUs when idle."""
        return self.resources.get("GPU", 0.0)


def alive_nodes() -> list[Node]:
    """The cluster's living nodes, by address."""
    found = [
        Node(
            node_id=node["NodeID"],
            ip=node["NodeManagerAddress"],
            resources=node["Resources"],
            labels=node.get("Labels") or {},
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]
    return sorted(found, key=lambda node: (node.ip, node.node_id))


def choose_nodes(
    nodes: Sequence[Node], *, gpu_only: bool = False, labels: Mapping[str, str] | None = None
) -> list[Node]:
    """Those of some nodes that have GPUs, if that is wanted, and all of the labels.

    Raises:
        InvalidSettingError: None is left.
    """
    wanted = (labels or {}).items()
    chosen = [node for node in nodes if (node.num_gpus > 0 or not gpu_only) and wanted <= node.labels.items()]
    if not chosen:
        raise InvalidSettingError(
            name="labels" if labels else "gpu_only",
            value=dict(labels) if labels else gpu_only,
            expected=f"to match at least one of the {len(nodes)} living nodes{' with GPUs' * gpu_only}",
            hint="`raydsinfer nodes list` shows what they have.",
        )
    return chosen


def node_names(nodes: Sequence[Node]) -> dict[str, str]:
    """Node id → short name for people: the address, with the beginning of the id where nodes share one."""
    sharing = Counter(node.ip for node in nodes)
    return {node.node_id: node.ip if sharing[node.ip] == 1 else f"{node.ip} ({node.node_id[:8]})" for node in nodes}
