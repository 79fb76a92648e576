"""GPU tests run on whatever GPUs there are, and are skipped where there are none.

Where there are fewer than a group has ranks, these share the first one, and gangs where there is one: see `sharing`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from tests.gpu.illegal_access import TRIGGER
from tests.gpu.processes import SHARED


def num_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = str(Path(__file__).parent)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.gpu)
            if not num_gpus():
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Ray of this machine; the file that it yields makes a process with a GPU fail when it appears."""
    trigger = tmp_path_factory.mktemp("trigger") / "now"
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    variables = {"PYTHONPATH": paths, TRIGGER: str(trigger)}
    here = num_gpus()
    ray.shutdown()
    with pytest.MonkeyPatch.context() as environment:
        if here == 1:  # Ray gives it out as if it were two
            first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
            environment.setenv("CUDA_VISIBLE_DEVICES", f"{first},{first}")
            variables[SHARED] = "1"
        ray.init(
            address="local",
            num_gpus=max(2, here),
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={
                "env_vars": variables,
                "worker_process_setup_hook": "tests.gpu.processes.begin",
            },
        )
    yield trigger
    ray.shutdown()


@pytest.fixture(params=[1, 2])
def tp(request: pytest.FixtureRequest) -> int:
    """The tensor parallel size."""
    size: int = request.param
    return size


@pytest.fixture
def two_gpus() -> None:
    if num_gpus() < 2:
        pytest.skip("needs two GPUs")
