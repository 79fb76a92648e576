from __future__ import annotations

import pytest
import ray


@pytest.fixture(scope="module", autouse=True)
def no_ray() -> None:
    """Tests of clusters that ran before in this process leave one to each other."""
    ray.shutdown()
