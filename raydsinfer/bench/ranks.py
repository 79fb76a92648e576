"""Starts the ranks of a process group as plain processes of this machine, without Ray."""

from __future__ import annotations

import multiprocessing
import os
import queue
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raydsinfer.engines.base import RankContext
from raydsinfer.errors import RaydsinferError, WorkerGroupError


def run_on_ranks(
    world_size: int, target: Callable[..., Any], *args: Any, timeout_s: float = 600, device: str = "cpu"
) -> list[Any]:
    """Run `target(context, *args)` in a new process for each rank; returns the answers by rank.

    Args:
        world_size: Number of processes.
        target: A function at the top of a module; gets the rank's `RankContext`.
        *args: What else it gets.
        timeout_s: Seconds for all of it.
        device: ``cpu`` (gloo) or ``cuda`` (NCCL, a GPU for each rank).

    Raises:
        WorkerGroupError: Ranks failed, with tracebacks of what was not raised by us, or did not answer in time.
    """
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    with tempfile.TemporaryDirectory() as scratch:
        given = (world_size, device, str(Path(scratch) / "rendezvous"), answers, target, args)
        processes = [spawn.Process(target=_rank, args=(rank, *given)) for rank in range(world_size)]
        for process in processes:
            process.start()
        try:
            got = dict(answers.get(timeout=timeout_s) for _ in processes)
        except queue.Empty:
            silent: dict[int, BaseException] = dict.fromkeys(
                range(world_size), TimeoutError(f"no answer of all ranks within {timeout_s:g} s")
            )
            raise WorkerGroupError(gang="ranks", phase="run", causes=silent) from None
        finally:
            for process in processes:
                process.kill()
                process.join()
    causes: dict[int, BaseException] = {rank: error for rank, (ok, error) in got.items() if not ok}
    if causes:
        raise WorkerGroupError(gang="ranks", phase="run", causes=causes)
    return [got[rank][1] for rank in range(world_size)]


def _end_with_parent() -> None:
    """A rank whose parent was killed would wait for the other ranks for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _rank(
    rank: int, world_size: int, device: str, store: str, answers: Any, target: Callable[..., Any], args: Any
) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT="0"
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
