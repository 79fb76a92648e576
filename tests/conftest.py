"""For all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A machine that is busy is slow: no test fails for that.
settings.register_profile("raydsinfer", deadline=None)
settings.load_profile("raydsinfer")

# Before torch is imported: several modules share the cores, and threads for matrices as small as the tests' wait for
# each other most of their time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Each Ray would start a worker for each core before anybody asks for one; many tests need fewer, or end before.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")

# Modules that share a Ray (`local_ray`) come first, so that it is started once for each process of tests. Among them,
# and among the others, those that take most of a minute and more start first: whoever ran one as the last would have
# the rest wait.
FIRST = (
    "cluster/test_cli",
    "cluster/test_gang_stage",
    "cluster/test_kept_rows",
    "cluster/test_kernel_families",
    "cluster/test_worker_group",
    "cluster/test_examples",
    "cluster/test_gang_stage_models",
    "cluster/test_supervisor",
    "cluster/test_worker_group_keeper",
    "cluster/test_recovery",
    "cluster/test_batch_predictor",
    "cluster/test_hangs",
    "cluster/test_worker_group_weights",
    "cluster/test_bad_input",
    "cluster/test_docs",
    "cluster/test_deepspeed_predictor",
    # Without, or with a Ray of their own.
    "cluster/test_gate_ladder",
    "cluster/test_cli_fetch",
    "cluster/test_cli_nodes",
    "faults/test_faults",
    "cluster/test_elastic",
    "cluster/test_planning",
    "cluster/test_gate",
    "cluster/test_worker_group_nodes",
    "cluster/test_integrity",
    "cluster/test_continuous_engine",
    "cluster/test_bench_load",
    "cluster/test_worker_group_layouts",
    "cluster/test_nodes",
    "cluster/test_smollm2",
    "cluster/test_deepspeed_engine",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the modules; the order within one stays."""
    ranks = {Path(__file__).parent / f"{name}.py": rank for rank, name in enumerate(FIRST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
