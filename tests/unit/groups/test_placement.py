import pytest
from ray.train import ScalingConfig

from raydsinfer.errors import InvalidSettingError, UnsupportedError
from raydsinfer.groups.placement import GangRequest, NodeResources, capacity_error, gang_request, why_impossible


def node(address: str = "10.0.0.1", free: dict | None = None, **total: float) -> NodeResources:
    return NodeResources(address=address, total=total, free=total if free is None else free)


def request(num_ranks: int, strategy: str = "PACK", **bundle: float) -> GangRequest:
    return GangRequest(gang="g", num_ranks=num_ranks, bundle=bundle, strategy=strategy)


@pytest.mark.parametrize(
    ("scaling", "bundle"),
    [
        (ScalingConfig(num_workers=2), {"CPU": 1}),
        (ScalingConfig(num_workers=2, use_gpu=True), {"GPU": 1}),
        (
            ScalingConfig(num_workers=2, use_gpu=True, resources_per_worker={"CPU": 3, "memory": 5e9, "disk": 1}),
            {"CPU": 3, "GPU": 1, "memory": 5e9, "disk": 1},
        ),
        (
            ScalingConfig(num_workers=2, use_gpu=True, accelerator_type="H100"),
            {"GPU": 1, "accelerator_type:H100": 0.001},
        ),
        (ScalingConfig(num_workers=1, use_gpu=True, resources_per_worker={"GPU": 0.5}), {"GPU": 0.5}),
    ],
)
def test_a_scaling_config_becomes_one_bundle_a_rank(scaling, bundle):
    made = gang_request("g", scaling)
    assert (made.num_ranks, made.bundle, made.strategy) == (scaling.num_workers, bundle, "PACK")


def test_strategy_and_labels_are_passed_on():
    scaling = ScalingConfig(num_workers=2, placement_strategy="STRICT_SPREAD", label_selector={"zone": "a"})
    made = gang_request("g", scaling)
    assert made.strategy == "STRICT_SPREAD"
    assert made.label_selectors == ({"zone": "a"}, {"zone": "a"})


@pytest.mark.parametrize(
    ("scaling", "error", "told"),
    [
        (ScalingConfig(num_workers=0), InvalidSettingError, "num_workers=0"),
        (ScalingConfig(num_workers=(1, 2)), UnsupportedError, "max_scoring_workers"),
        (
            ScalingConfig(num_workers=2, use_gpu=True, resources_per_worker={"GPU": 2}),
            InvalidSettingError,
            "num_workers",
        ),
        (ScalingConfig(num_workers=2, use_gpu=True, resources_per_worker={"GPU": 0.5}), InvalidSettingError, "one GPU"),
        (ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0}), InvalidSettingError, "resources_per_worker"),
    ],
)
def test_a_scaling_config_that_no_gang_can_have_is_refused(scaling, error, told):
    with pytest.raises(error, match=told):
        gang_request("g", scaling)


@pytest.mark.parametrize(
    ("wanted", "nodes", "told"),
    [
        (request(4, GPU=1), [node(GPU=2), node(GPU=2)], ""),
        (request(4, GPU=1), [node(GPU=2), node(GPU=1)], "idle nodes would hold 3 in all"),
        (request(4, GPU=1), [], "no node can hold"),
        (request(1, GPU=1), [node(CPU=8)], "no node can hold a bundle of {'GPU': 1}"),
        (request(2, GPU=1, CPU=4), [node(GPU=8, CPU=7)], "would hold 1 in all"),
        (request(3, "STRICT_PACK", GPU=1), [node(GPU=2), node(GPU=2)], "would hold 2 on one node"),
        (request(2, "STRICT_PACK", GPU=1), [node(GPU=1), node(GPU=2)], ""),
        (
            request(3, "STRICT_SPREAD", GPU=1),
            [node(GPU=8), node(GPU=8), node(CPU=8)],
            "would hold 2 on different nodes",
        ),
        (request(2, "STRICT_SPREAD", GPU=1), [node(GPU=8), node(GPU=8)], ""),
        (request(3, CPU=0.1), [node(CPU=0.3)], ""),
    ],
)
def test_whether_idle_nodes_could_hold_a_gang(wanted, nodes, told):
    answer = why_impossible(wanted, nodes)
    assert told in answer
    assert bool(answer) == bool(told)


def test_what_is_taken_now_does_not_make_a_gang_impossible():
    assert why_impossible(request(1, GPU=1), [node(GPU=1, free={})]) == ""


def test_the_error_names_the_bundle_that_fits_nowhere_and_what_nodes_have():
    nodes = [node("10.0.0.1", free={"GPU": 1, "memory": 2**30}, GPU=4, memory=64 * 2**30)]
    error = capacity_error(request(2, GPU=1, big=1), nodes, waited_s=7.2)
    assert error.unplaceable == (0, 1)
    text = str(error)
    assert "not placed after 7 s: no node can hold the bundle {'GPU': 1, 'big': 1} of rank 0, 1" in text
    assert "10.0.0.1: 1 of 4 GPU, 1.0 GiB of 64.0 GiB memory free" in text


def test_the_error_of_a_busy_cluster_says_to_wait():
    error = capacity_error(request(2, GPU=1), [node(GPU=2, free={})], waited_s=7)
    assert error.unplaceable == ()
    assert "did not become free together" in str(error)
    assert "placement_timeout_s" in str(error)


def test_the_error_of_a_small_cluster_counts():
    error = capacity_error(request(3, GPU=1), [node(GPU=2)], waited_s=7)
    assert "3 bundles of {'GPU': 1} are wanted, but idle nodes would hold 2 in all" in error.hint


def test_labels_are_mentioned_because_they_are_not_checked():
    wanted = GangRequest(gang="g", num_ranks=1, bundle={"GPU": 1}, label_selectors=({"zone": "a"},))
    assert "{'zone': 'a'}" in capacity_error(wanted, [node(GPU=2)], waited_s=7).hint
