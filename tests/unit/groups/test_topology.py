from hypothesis import given
from hypothesis import strategies as st

from raydsinfer.groups.topology import LOOPBACK, WorkerPlace, assign_ranks, meeting_host


def place(node: str, gpu: str = "") -> WorkerPlace:
    return WorkerPlace(node_id=node, node_ip="10.0.0.1", gpu_ids=(gpu,) if gpu else ())


def test_twelve_gpus_are_numbered_as_numbers():
    mixed_up = [10, 2, 0, 11, 1, 9, 3, 8, 4, 7, 5, 6]
    ranks = assign_ranks([place("a", str(gpu)) for gpu in mixed_up])
    assert [rank.gpu_ids for rank in ranks] == [(str(gpu),) for gpu in range(12)]
    assert [rank.local_rank for rank in ranks] == list(range(12))
    assert [rank.bundle_index for rank in ranks] == [mixed_up.index(gpu) for gpu in range(12)]


def test_ranks_of_a_node_are_consecutive_whatever_the_order_of_bundles():
    ranks = assign_ranks([place("b", "1"), place("a", "0"), place("b", "0"), place("a", "1")])
    assert [(r.node_id, r.gpu_ids[0], r.world_rank, r.node_rank, r.local_rank, r.local_world_size) for r in ranks] == [
        ("b", "0", 0, 0, 0, 2),
        ("b", "1", 1, 0, 1, 2),
        ("a", "0", 2, 1, 0, 2),
        ("a", "1", 3, 1, 1, 2),
    ]


def test_nodes_with_one_address_are_still_two_nodes():
    assert [rank.node_rank for rank in assign_ranks([place("a", "0"), place("b", "0")])] == [0, 1]


def test_gpus_with_names_come_after_numbers():
    ranks = assign_ranks([place("a", "MIG-1"), place("a", "3"), place("a", "GPU-7")])
    assert [rank.gpu_ids[0] for rank in ranks] == ["3", "GPU-7", "MIG-1"]


def test_without_gpus_bundles_keep_their_order():
    assert [rank.bundle_index for rank in assign_ranks([place("a"), place("a"), place("a")])] == [0, 1, 2]


def test_ranks_of_one_node_meet_where_nobody_else_can_come():
    assert meeting_host(assign_ranks([place("a"), place("a")])) == LOOPBACK
    assert meeting_host(assign_ranks([place("a"), place("b")])) == "10.0.0.1"


def test_a_rank_keeps_what_its_stacks_are_read_by():
    (rank,) = assign_ranks([WorkerPlace(node_id="a", node_ip="10.0.0.1", engine_thread=7, dump_descriptor=9)])
    assert (rank.engine_thread, rank.dump_descriptor) == (7, 9)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 15)), min_size=1, max_size=24, unique=True))
def test_any_placement_gives_each_bundle_one_rank_and_each_node_a_block(where):
    ranks = assign_ranks([place(node, str(gpu)) for node, gpu in where])
    assert [rank.world_rank for rank in ranks] == list(range(len(where)))
    assert sorted(rank.bundle_index for rank in ranks) == list(range(len(where)))
    assert all((rank.node_id, int(rank.gpu_ids[0])) == where[rank.bundle_index] for rank in ranks)
    for node_rank in {rank.node_rank for rank in ranks}:
        block = [rank for rank in ranks if rank.node_rank == node_rank]
        assert len({rank.node_id for rank in block}) == 1
        assert [rank.local_rank for rank in block] == list(range(block[0].local_world_size))
        assert [rank.world_rank - block[0].world_rank for rank in block] == [rank.local_rank for rank in block]
        assert [int(rank.gpu_ids[0]) for rank in block] == sorted(int(rank.gpu_ids[0]) for rank in block)
