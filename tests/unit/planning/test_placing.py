import pytest

from raydsinfer.groups.placement import GangRequest, NodeResources
from raydsinfer.planning.placing import place_gangs
from raydsinfer.planning.sizing import num_gangs


def node(address: str, gpus: float, free: float | None = None, node_id: str = "") -> NodeResources:
    free = gpus if free is None else free
    return NodeResources(address=address, total={"GPU": gpus}, free={"GPU": free}, node_id=node_id)


def request(num_ranks: int, strategy: str = "PACK") -> GangRequest:
    return GangRequest(gang="gang", num_ranks=num_ranks, bundle={"GPU": 1.0}, strategy=strategy)


@pytest.mark.parametrize(
    ("strategy", "ranks", "gpus", "expected"),
    [
        ("PACK", 2, [4, 2], {"b": 2}),
        ("PACK", 5, [4, 2], {"a": 4, "b": 1}),
        ("SPREAD", 3, [4, 2], {"a": 2, "b": 1}),
        ("STRICT_SPREAD", 2, [4, 2], {"a": 1, "b": 1}),
        ("STRICT_PACK", 3, [4, 2], {"a": 3}),
        ("STRICT_PACK", 5, [4, 2], {}),
        ("STRICT_SPREAD", 3, [4, 2], {}),
        ("PACK", 7, [4, 2], {}),
    ],
)
def test_where_a_gang_would_go(strategy: str, ranks: int, gpus: list[int], expected: dict[str, int]) -> None:
    nodes = [node(name, have) for name, have in zip("ab", gpus, strict=True)]
    (placed,) = place_gangs(request(ranks, strategy), 1, nodes)
    assert placed.ranks_by_node == expected
    assert bool(placed.problem) == (not expected)


def test_gangs_do_not_share_what_is_free() -> None:
    placed = place_gangs(request(2), 3, [node("a", 4), node("b", 2, free=1)])
    assert [gang.ranks_by_node for gang in placed] == [{"a": 2}, {"a": 2}, {}]
    assert "would wait" in placed[2].problem


def test_two_nodes_may_share_an_address() -> None:
    (placed,) = place_gangs(request(2, "STRICT_SPREAD"), 1, [node("x", 1, node_id="1"), node("x", 1, node_id="2")])
    assert placed.ranks_by_node == {"1": 1, "2": 1}


def test_how_many_gangs_there_is_room_for() -> None:
    nodes = [node("a", 4), node("b", 2, free=1)]
    assert (num_gangs(request(2), nodes), num_gangs(request(2), nodes, idle=True)) == (2, 3)
    assert (num_gangs(request(5), nodes), num_gangs(request(7), nodes, idle=True)) == (1, 0)
    assert num_gangs(request(1), []) == 0
