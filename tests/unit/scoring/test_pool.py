"""How many gangs fit, and what is left for Ray Data."""

from __future__ import annotations

import logging

import pytest

from raydsinfer.errors import InvalidSettingError
from raydsinfer.groups.placement import GangRequest, NodeResources
from raydsinfer.scoring.pool import ScoringPool, num_gangs_that_fit, pool_size


def gang(num_ranks: int, strategy: str = "PACK", **bundle: float) -> GangRequest:
    return GangRequest(gang="gang", num_ranks=num_ranks, bundle=bundle, strategy=strategy)


def nodes(*gpus: int, cpus: float = 8) -> list[NodeResources]:
    return [NodeResources(address="n", total={"CPU": cpus, "GPU": n}, free={}) for n in gpus]


@pytest.mark.parametrize(
    ("strategy", "gpus", "num_ranks", "expected"),
    [
        ("PACK", (4, 4), 2, 4),
        ("PACK", (3, 3), 2, 3),
        ("PACK", (1, 1, 1), 4, 0),
        ("STRICT_PACK", (3, 3), 2, 2),
        ("STRICT_PACK", (1, 1), 2, 0),
        ("SPREAD", (3, 3), 2, 3),
        ("STRICT_SPREAD", (4, 1), 2, 1),
        ("STRICT_SPREAD", (2, 2, 2), 2, 3),
        ("STRICT_SPREAD", (4, 4), 3, 0),
        ("PACK", (), 1, 0),
    ],
)
def test_gangs_that_fit(strategy: str, gpus: tuple[int, ...], num_ranks: int, expected: int) -> None:
    assert num_gangs_that_fit(gang(num_ranks, strategy, GPU=1), nodes(*gpus)) == expected


def test_the_scarcest_resource_counts() -> None:
    assert num_gangs_that_fit(gang(1, GPU=1, CPU=3), nodes(4, cpus=8)) == 2
    assert num_gangs_that_fit(gang(1, CPU=0.1), nodes(0, cpus=0.3)) == 3


def test_without_a_limit_as_many_as_fit() -> None:
    assert pool_size(gang(2, GPU=1), nodes(8), 1, None) == (1, 4)
    assert pool_size(gang(2, GPU=1), nodes(8), 1, 2) == (1, 2)


def test_more_than_fit_may_be_wanted_an_autoscaler_may_come() -> None:
    assert pool_size(gang(2, GPU=1), nodes(2), 2, 8) == (2, 8)
    assert pool_size(gang(2, GPU=1), [], 1, None) == (1, 1)


def test_ray_data_keeps_a_cpu() -> None:
    with pytest.raises(InvalidSettingError, match=r"at most 0\.5\. 1 x 2 ranks would take 2 of the cluster's 2 CPUs"):
        pool_size(gang(2, CPU=1), nodes(0, cpus=2), 1, None)
    assert pool_size(gang(2, CPU=0.5), nodes(0, cpus=2), 1, None) == (1, 1)
    assert pool_size(gang(2, CPU=1), nodes(0, cpus=8), 1, None) == (1, 3)


def test_a_wish_that_would_take_the_last_cpu_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert pool_size(gang(2, CPU=1), nodes(0, cpus=4), 1, 2) == (1, 1)
    assert "max_scoring_workers=2 would leave no CPU for Ray Data on 4 CPUs: using 1" in caplog.text


@pytest.mark.parametrize(
    "sizes",
    [{"min_size": 0}, {"min_size": 1.5}, {"min_size": True}, {"max_size": 0}, {"min_size": 3, "max_size": 2}],
)
def test_sizes_are_checked(sizes: dict[str, int]) -> None:
    with pytest.raises(InvalidSettingError, match="scoring_workers="):
        ScoringPool(**sizes)


def test_options_of_the_actors() -> None:
    pool = ScoringPool(num_gpus=1, remote_args={"num_cpus": 3, "resources": {"a": 1}})
    assert pool.actor_options(default_num_cpus=1) == {"num_cpus": 3, "num_gpus": 1, "resources": {"a": 1}}
    assert ScoringPool(num_cpus=0.5, remote_args={"num_cpus": 3}).actor_options(default_num_cpus=1) == {"num_cpus": 0.5}
    assert ScoringPool().actor_options(default_num_cpus=0) == {"num_cpus": 0}
