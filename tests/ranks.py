"""Starts the ranks of a process group as plain processes, for tests of engines without Ray."""

from __future__ import annotations

import multiprocessing
import os
import queue
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run_ranks(
    world_size: int,
    directory: Path,
    target: Callable[..., Any],
    *args: Any,
    timeout_s: float = 150,
    device: str = "cpu",
) -> Any:
    """Run `target(context, *args)` on every rank of a process group; returns rank 0's answer.

    Args:
        world_size: Number of processes.
        directory: For the rendezvous file; must be new for each call.
        target: A function at the top of a module; gets the rank's `RankContext`.
        args: What else it gets.
        timeout_s: Seconds for all of it.
        device: ``cpu`` (gloo) or ``cuda`` (NCCL, a GPU for each rank).

    Raises:
        AssertionError: A rank failed; with its traceback.
    """
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    processes = [
        spawn.Process(
            target=_rank, args=(rank, world_size, device, str(directory / "rendezvous"), answers, target, args)
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    try:
        got = dict(answers.get(timeout=timeout_s) for _ in processes)
    except queue.Empty:
        raise AssertionError(f"no answer within {timeout_s} s") from None
    finally:
        for process in processes:
            process.kill()
            process.join()
    failed = [text for ok, text in got.values() if not ok]
    assert not failed, "\n".join(failed)
    return got[0][1]


def _rank(
    rank: int, world_size: int, device: str, store: str, answers: Any, target: Callable[..., Any], args: Any
) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT="0"
    )
    import torch

    from raydsinfer.engines.base import RankContext

    backend, own = ("nccl", f"cuda:{rank}") if device == "cuda" else ("gloo", "cpu")
    if device == "cuda":
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(1)
    context = RankContext(
        world_rank=rank, world_size=world_size, local_rank=rank, local_world_size=world_size, device=own
    )
    try:
        torch.distributed.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=world_size)
        answers.put((rank, (True, target(context, *args))))
    except BaseException:
        answers.put((rank, (False, f"rank {rank}: {traceback.format_exc()}")))
    answers.close()
    answers.join_thread()
