"""A sum over all GPUs through NCCL, or over two CPU processes through gloo."""

from __future__ import annotations

import os
from typing import Any

from raydsinfer.bench.ranks import run_on_ranks
from raydsinfer.doctor.findings.gpus import AllReduceFound
from raydsinfer.errors import WorkerGroupError

_NUMBERS = 2**22  # 16 MiB of float32: more than one message of any transport


def find_all_reduce(num_gpus: int, timeout_s: float) -> AllReduceFound:
    """Sum once, in processes of their own.

    Args:
        num_gpus: That torch sees; NCCL if there are two or more.
        timeout_s: Seconds for all of it.
    """
    backend, num_ranks = ("nccl", num_gpus) if num_gpus > 1 else ("gloo", 2)
    settings = tuple(sorted(f"{name}={os.environ[name]}" for name in os.environ if name.startswith("NCCL_")))
    os.environ.setdefault("NCCL_DEBUG", "WARN")
    problem = ""
    try:
        sums = run_on_ranks(num_ranks, _sum, timeout_s=timeout_s, device="cuda" if backend == "nccl" else "cpu")
        right = num_ranks * (num_ranks + 1) / 2
        if wrong := [f"rank {rank} got {got:g}" for rank, got in enumerate(sums) if got != right]:
            problem = f"the sum is {right:g}, but {', '.join(wrong)}"
    except WorkerGroupError as error:
        problem = "; ".join(f"rank {rank}: {_last_line(cause)}" for rank, cause in sorted(error.causes.items()))
    return AllReduceFound(backend=backend, num_ranks=num_ranks, problem=problem, settings=settings)


def _sum(context: Any) -> float:
    """One plus this rank, summed over the ranks. What NCCL warns of goes to the output."""
    import torch
    import torch.distributed as dist

    numbers = torch.full((_NUMBERS,), context.world_rank + 1.0, device=context.device)
    dist.all_reduce(numbers)
    low, high = float(numbers.min()), float(numbers.max())
    dist.barrier()
    return low if low == high else float("nan")


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
