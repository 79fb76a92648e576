"""Starts the ranks of a process group as plain processes of this machine, without Ray."""

from __future__ import annotations

import multiprocessing
import os
import queue
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from raydsinfer.engines.base import RankContext
from raydsinfer.errors import RankDiedError, RaydsinferError, WorkerGroupError

_POLL_S = 1.0  # how soon a dead rank is noticed
_GRACE_S = 20.0  # when a rank has failed, for the others to say so too: they may wait for it in a collective


def run_on_ranks(
    world_size: int,
    target: Callable[..., Any],
    *args: Any,
    timeout_s: float = 600,
    device: str = "cpu",
    processes: SpawnContext | ForkServerContext | None = None,
) -> list[Any]:
    """Run `target(context, *args)` in a new process for each rank; returns the answers by rank.

    Each has the environment variables that this process has now, whatever starts it.

    Args:
        world_size: Number of processes.
        target: A function at the top of a module; gets the rank's `RankContext`.
        *args: What else it gets.
        timeout_s: Seconds for all of it.
        device: ``cpu`` (gloo) or ``cuda`` (NCCL, a GPU for each rank).
        processes: What starts them; new interpreters by default, as CUDA wants it.

    Raises:
        WorkerGroupError: Ranks failed, with tracebacks of what was not raised by us, died, or did not answer.
    """
    processes = processes or multiprocessing.get_context("spawn")
    answers = processes.Queue()
    with tempfile.TemporaryDirectory() as scratch:
        given = (world_size, device, str(Path(scratch) / "rendezvous"), dict(os.environ), answers, target, args)
        ranks = [processes.Process(target=_rank, args=(rank, *given)) for rank in range(world_size)]
        for process in ranks:
            process.start()
        try:
            got = _gathered(ranks, answers, timeout_s)
        finally:
            for process in ranks:
                process.kill()
                process.join()
    causes: dict[int, BaseException] = {rank: error for rank, (ok, error) in got.items() if not ok}
    if causes:
        raise WorkerGroupError(gang="ranks", phase="run", causes=causes)
    return [got[rank][1] for rank in range(world_size)]


def _gathered(processes: Sequence[BaseProcess], answers: Any, timeout_s: float) -> dict[int, tuple[bool, Any]]:
    """An answer of each rank; waits neither for processes that have ended nor long for the others of a failed one."""
    got: dict[int, tuple[bool, Any]] = {}
    until = time.monotonic() + timeout_s
    while len(got) < len(processes):
        # Looked at before the queue: what a process answered before it ended is in there.
        ended = {rank: process.exitcode for rank, process in enumerate(processes) if process.exitcode}
        try:
            rank, answer = answers.get(timeout=_POLL_S)
            got[rank] = answer
            if not answer[0]:
                until = min(until, time.monotonic() + _GRACE_S)
        except queue.Empty:
            if ended.keys() - got.keys() or time.monotonic() > until:
                raise WorkerGroupError(gang="ranks", phase="run", causes=_causes(got, ended, processes)) from None
    return got


def _causes(
    got: Mapping[int, tuple[bool, Any]], ended: Mapping[int, int], processes: Sequence[BaseProcess]
) -> dict[int, BaseException]:
    """Why not all ranks answered: who failed or died, or else who was silent."""
    causes: dict[int, BaseException] = {rank: error for rank, (ok, error) in got.items() if not ok}
    for rank in ended.keys() - got.keys():
        causes[rank] = RankDiedError(process=f"process of rank {rank}", reason=f"exit code {ended[rank]}")
    silent = TimeoutError("no answer in time")
    return causes or {rank: silent for rank in range(len(processes)) if rank not in got}


def _end_with_parent() -> None:
    """A rank whose parent was killed would wait for the other ranks for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _rank(
    rank: int,
    world_size: int,
    device: str,
    store: str,
    environment: Mapping[str, str],
    answers: Any,
    target: Callable[..., Any],
    args: Any,
) -> None:
    os.environ.clear()
    os.environ.update(
        environment,
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(rank),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="0",
    )
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()
    import torch

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
    except RaydsinferError as error:
        answers.put((rank, (False, error)))
    except BaseException:
        answers.put((rank, (False, RuntimeError(traceback.format_exc()))))
    answers.close()
    answers.join_thread()
