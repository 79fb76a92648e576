from dataclasses import replace

from raydsinfer.doctor.findings.failed import ProbeFailed
from raydsinfer.doctor.findings.gpus import AllReduceFound
from tests.unit.doctor.machines import GIB, h100s, laptop, node, one_gpu, verdict

FAILED = AllReduceFound(
    backend="nccl",
    num_ranks=2,
    problem="rank 0: ncclSystemError: System call (e.g. socket, malloc) or external library call failed",
    settings=("NCCL_P2P_DISABLE=1",),
)


def test_a_sum_that_fails() -> None:
    nccl = verdict(replace(h100s(), all_reduce=FAILED), "NCCL")
    assert (nccl.level, "(NCCL_P2P_DISABLE=1)" in nccl.found, "ncclSystemError" in nccl.found) == ("red", True, True)
    assert "NCCL_DEBUG=INFO" in nccl.cure


def test_shared_memory_is_named_first_where_it_is_small() -> None:
    machine = replace(h100s(), all_reduce=FAILED, node=node(shm_bytes=64 * 2**20, shm_free_bytes=64 * 2**20))
    assert verdict(machine, "NCCL").cure.startswith("First see the line about /dev/shm.")


def test_a_sum_that_hangs_tells_what_nccl_said_last() -> None:
    hung = ProbeFailed(reason="no answer within 120 s", output="NCCL WARN Timeout waiting for connection")
    nccl = verdict(replace(h100s(), all_reduce=hung), "NCCL")
    assert (nccl.level, nccl.found.endswith("NCCL WARN Timeout waiting for connection")) == ("red", True)


def test_gloo_where_there_are_not_two_gpus() -> None:
    assert "between 2 CPU processes is right" in verdict(laptop(), "gloo").found
    assert "one GPU has nobody" in verdict(one_gpu("NVIDIA A10", (8, 6), 24 * GIB), "gloo").found
