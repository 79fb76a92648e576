"""Which nodes are asked, and what they are called."""

from __future__ import annotations

import pytest

from raydsinfer.errors import ConfigurationError
from raydsinfer.groups.nodes import Node, choose_nodes, node_names


def node(name: str, ip: str = "10.0.0.1", num_gpus: float = 0, **labels: str) -> Node:
    resources = {"CPU": 4.0, **({"GPU": float(num_gpus)} if num_gpus else {})}
    return Node(node_id=name, ip=ip, resources=resources, labels=labels)


NODES = [node("a"), node("b", num_gpus=2, zone="x", disk="nvme"), node("c", num_gpus=1, zone="y", disk="nvme")]


@pytest.mark.parametrize(
    ("gpu_only", "labels", "chosen"),
    [
        (False, None, "abc"),
        (False, {}, "abc"),
        (True, None, "bc"),
        (False, {"disk": "nvme"}, "bc"),
        (False, {"disk": "nvme", "zone": "y"}, "c"),
        (True, {"zone": "x"}, "b"),
    ],
)
def test_nodes_with_gpus_and_all_labels(gpu_only: bool, labels: dict[str, str] | None, chosen: str) -> None:
    assert "".join(node.node_id for node in choose_nodes(NODES, gpu_only=gpu_only, labels=labels)) == chosen


def test_resources_by_name() -> None:
    assert [(node.num_cpus, node.num_gpus) for node in NODES] == [(4, 0), (4, 2), (4, 1)]


def test_no_node_is_an_error_that_says_where_to_look() -> None:
    with pytest.raises(ConfigurationError, match=r"labels=\{'zone': 'z'\}.*3 living nodes\..*nodes list"):
        choose_nodes(NODES, labels={"zone": "z"})
    with pytest.raises(ConfigurationError, match=r"gpu_only=True.*1 living nodes with GPUs"):
        choose_nodes(NODES[:1], gpu_only=True)


def test_nodes_that_share_an_address_are_told_apart() -> None:
    alone, first, second = node("1" * 56, ip="10.0.0.9"), node("2" * 56), node("3" * 56)
    assert node_names([alone, first, second]) == {
        alone.node_id: "10.0.0.9",
        first.node_id: "10.0.0.1 (22222222)",
        second.node_id: "10.0.0.1 (33333333)",
    }
