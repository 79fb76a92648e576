"""Fixtures of the tests on real Ray: CPU, fake GPUs, and a check that nothing is left of a test."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest
import ray

from raydsinfer.config import EchoFault, EngineConfig, GangConfig, GenerationConfig
from raydsinfer.engines.base import EngineSpec, GenerateBatch
from tests.clusters import assert_nothing_left, join_node


@pytest.fixture(scope="session", autouse=True)
def interrupts_arrive() -> None:
    """A shell starts background jobs with SIGINT ignored, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def local_ray() -> None:
    """One node with 4 CPUs and 4 fake GPUs."""
    join_node()


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """The node of `local_ray`, and a check that a test leaves no actor, placement group or rank process."""
    join_node()  # for each test: one that failed before has ended it
    yield
    try:
        assert_nothing_left()
    except AssertionError:
        ray.shutdown()  # else all that follow would fail, too
        raise


@pytest.fixture
def echo_spec() -> Callable[..., EngineSpec]:
    """Make an echo engine's spec; keyword arguments are those of `EchoFault`."""

    def make(**fault: object) -> EngineSpec:
        return EngineSpec(
            model="no-model", config=EngineConfig(engine="echo", echo_fault=EchoFault(**fault) if fault else None)
        )

    return make


@pytest.fixture
def batch() -> GenerateBatch:
    """Two small prompts in the echo engine's tokens."""
    return GenerateBatch(prompts=[list(b"hello"), list(b"poison")], generation=GenerationConfig())


@pytest.fixture
def quick() -> GangConfig:
    """Deadlines for tests that do not wait for one."""
    return GangConfig(placement_timeout_s=120, start_timeout_s=120, call_timeout_s=120, lease_ttl_s=3)
