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

# Modules that take most of a minute and more start before the others: whoever ran one as the last would have the rest
# wait. Those with a Ray of their own and those without one come first, then those that share one (`local_ray`), so that
# it is started once for each process of tests.
FIRST = (
    "faults/test_faults",
    "cluster/test_gate_ladder",
    "cluster/test_cli_fetch",
    "cluster/test_cli_nodes",
    "cluster/test_integrity",
    "cluster/test_planning",
    "cluster/test_elastic",
    "cluster/test_continuous_engine",
    "cluster/test_gate",
    "cluster/test_smollm2",
    "cluster/test_worker_group_layouts",
    "cluster/test_prepared",
    "cluster/test_bench_load",
    "cluster/test_cli_doctor",
    "cluster/test_deepspeed_engine",
    "cluster/test_int8_engine",
    "cluster/test_worker_group_nodes",
    "cluster/test_bench_throughput",
    "cluster/test_nodes",
    "cluster/test_presharded",
    "cluster/test_bench_ranks",
    "cluster/test_deepspeed_setup",
    # With the Ray that is shared.
    "cluster/test_cli",
    "cluster/test_kept_rows",
    "cluster/test_gang_stage",
    "cluster/test_kernel_families",
    "cluster/test_gang_stage_models",
    "cluster/test_examples",
    "cluster/test_batch_predictor",
    "cluster/test_docs",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the modules; the order within one stays."""
    ranks = {Path(__file__).parent / f"{name}.py": rank for rank, name in enumerate(FIRST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
