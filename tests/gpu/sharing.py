"""Two ranks on one GPU, for tests of text where there are fewer GPUs than ranks.

NCCL refuses two ranks of one host on one GPU, but not of two hosts: with a name of its own for its host each rank is
a node to it, and they talk through sockets. Slow, and right; figures of speed or of the paths between GPUs need a GPU
for each rank.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raydsinfer.bench.ranks import run_on_ranks
from raydsinfer.engines.base import RankContext


def run_on_one_gpu(world_size: int, target: Callable[..., Any], *args: Any, timeout_s: float) -> list[Any]:
    """As `raydsinfer.bench.ranks.run_on_ranks` with ``device="cuda"``, all on the first GPU."""
    with tempfile.TemporaryDirectory() as scratch:
        store = str(Path(scratch) / "rendezvous")
        return run_on_ranks(world_size, _on_first_gpu, store, target, *args, timeout_s=timeout_s)


def name_own_host() -> None:
    """From now on NCCL takes this process for one of another node than its neighbours."""
    os.environ.update(NCCL_HOSTID=f"pid-{os.getpid()}", NCCL_NET="Socket")


def _on_first_gpu(context: RankContext, store: str, target: Callable[..., Any], *args: Any) -> Any:
    import torch
    import torch.distributed as dist

    name_own_host()
    os.environ["LOCAL_RANK"] = "0"
    dist.destroy_process_group()  # gloo's
    torch.cuda.set_device(0)
    dist.init_process_group(
        "nccl", init_method=f"file://{store}", rank=context.world_rank, world_size=context.world_size
    )
    return target(dataclasses.replace(context, device="cuda:0"), *args)
