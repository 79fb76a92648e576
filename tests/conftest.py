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
# wait. Those that start many processes through Ray are mixed with those that do not.
LONGEST_FIRST = (
    "faults/test_faults",
    "cluster/test_cli",
    "cluster/test_integrity",
    "cluster/test_gang_stage",
    "cluster/test_kernel_families",
    "cluster/test_cli_fetch",
    "cluster/test_smollm2",
    "cluster/test_gang_stage_models",
    "cluster/test_cli_nodes",
    "cluster/test_gate",
    "cluster/test_gate_ladder",
    "cluster/test_planning",
    "cluster/test_deepspeed_engine",
    "cluster/test_recovery",
    "cluster/test_worker_group",
    "cluster/test_presharded",
    "cluster/test_worker_group_nodes",
    "cluster/test_hangs",
    "cluster/test_int8_engine",
    "cluster/test_examples",
    "cluster/test_continuous_engine",
    "cluster/test_kept_rows",
    "cluster/test_docs",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of long modules first; the order within a module stays."""
    ranks = {Path(__file__).parent / f"{name}.py": rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
