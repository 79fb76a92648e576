"""Ranks that answer are seen in tests/cluster/test_cli_doctor.py."""

import pytest

from raydsinfer.doctor.findings.gpus import AllReduceFound
from raydsinfer.doctor.probes.all_reduce import find_all_reduce


def test_ranks_that_are_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    found = find_all_reduce(1, 0.01)
    assert found == AllReduceFound(
        backend="gloo",
        num_ranks=2,
        problem="rank 0: no answer in time; rank 1: no answer in time",
        settings=("NCCL_DEBUG=WARN",),
    )
