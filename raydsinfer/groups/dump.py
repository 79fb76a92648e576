"""Stacks of ranks, also of those that cannot tell them: one that holds Python's lock runs no Python.

Each rank registers a signal at whose arrival `faulthandler` writes the stacks of all threads, from C and without
the lock, into a file in memory that has no name; whoever is on the node and has the rank's user reads it through
``/proc``. Nothing is left of it when the rank dies, however it dies.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydsinfer.errors import summary_of
from raydsinfer.groups.stacks import RankStacks, read_dump
from raydsinfer.groups.topology import Rank

_NAME = "raydsinfer-stacks"
_SIGNAL = signal.SIGUSR1
_TELL_S = 1.0  # a process that can answer does so in milliseconds
_DUMP_S = 1.5  # writing takes milliseconds
_QUIET_S = 0.25  # a busy machine may pause in the middle of it
_TASK_S = 3.0  # a node starts a process in a second or two, if it is not too busy
_NUM_THREADS = 32
_POLL_S = 0.02


def open_dump() -> int:
    """In a rank: be ready for `dump_of`.

    Returns:
        The file's descriptor; -1 where the system has no such files.
    """
    try:
        descriptor = os.memfd_create(_NAME)
    except (AttributeError, OSError):
        return -1
    faulthandler.register(_SIGNAL, file=descriptor, all_threads=True)
    return descriptor


def dump_of(pid: int, descriptor: int, timeout_s: float = _DUMP_S) -> tuple[str, str]:
    """What the threads of a rank on this node are doing.

    Args:
        pid: Its process.
        descriptor: From its `open_dump`.
        timeout_s: Seconds to wait for it.

    Returns:
        What `faulthandler` wrote, and what else there is to say.
    """
    path = f"/proc/{pid}/fd/{descriptor}"
    try:
        if _NAME not in os.readlink(path):  # the signal would kill a stranger
            return "", "its process is gone"
        if psutil.Process(pid).status() == psutil.STATUS_STOPPED:
            return "", f"its process is stopped (SIGSTOP): `kill -CONT {pid}` on its node would let it go on"
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            os.kill(pid, _SIGNAL)
            return _written(file, timeout_s), ""
    except (OSError, psutil.Error) as error:
        return "", f"its stacks cannot be read ({error})"


def stacks_of(actors: Sequence[Any], ranks: Sequence[Rank], silent: Collection[int] = ()) -> dict[int, RankStacks]:
    """Stacks of all ranks, by world rank: told by themselves, or else asked for by a signal.

    Args:
        actors: `Worker` actors by world rank.
        ranks: Where they run; empty if that is not known yet.
        silent: Ranks that do not answer.
    """
    here = ray.get_runtime_context().get_node_id()
    # A neighbour is there at once; a node may take seconds to start a process.
    neighbours = {rank.node_id: actors[rank.world_rank] for rank in ranks if rank.world_rank not in silent}

    def dump(world_rank: int) -> RankStacks:
        rank = ranks[world_rank]
        return _dump(rank, is_here=rank.node_id == here, neighbour=neighbours.get(rank.node_id))

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        dumps = {rank: pool.submit(dump, rank) for rank in silent if rank < len(ranks)}
        found = _told({rank: actor for rank, actor in enumerate(actors) if rank not in silent})
        neighbours = {rank.node_id: actors[rank.world_rank] for rank in ranks if rank.world_rank in found}
        others = {rank.world_rank for rank in ranks} - found.keys() - dumps.keys()
        dumps |= {rank: pool.submit(dump, rank) for rank in others}
        return found | {rank: dumped.result() for rank, dumped in dumps.items()}


def _told(actors: Mapping[int, Any]) -> dict[int, RankStacks]:
    refs = {actor.stacks.remote(): rank for rank, actor in actors.items()}
    done, _ = ray.wait(list(refs), num_returns=len(refs), timeout=_TELL_S) if refs else ([], [])
    found = {}
    for ref in done:
        with suppress(Exception):  # it died, which the call's own answer tells
            found[refs[ref]] = ray.get(ref)
    return found


def _dump(rank: Rank, *, is_here: bool, neighbour: Any) -> RankStacks:
    try:
        if is_here:
            text, note = dump_of(rank.pid, rank.dump_descriptor)
        else:
            text, note = ray.get(_dump_there(rank, neighbour), timeout=_TASK_S)
    except Exception as error:  # the node is gone, or too busy
        text, note = "", f"its node did not tell ({summary_of(error)})"
    return RankStacks(threads=read_dump(text), engine_thread=rank.engine_thread, note=note)


def _dump_there(rank: Rank, neighbour: Any) -> Any:
    if neighbour is not None:
        return neighbour.dump_of.remote(rank.pid, rank.dump_descriptor)
    strategy = NodeAffinitySchedulingStrategy(rank.node_id, soft=False)
    remote: Any = ray.remote(num_cpus=0, max_retries=0)(dump_of)
    return remote.options(scheduling_strategy=strategy).remote(rank.pid, rank.dump_descriptor)


def _written(file: Any, timeout_s: float) -> str:
    """What is written from now on, until nothing more comes."""
    text, started = b"", time.monotonic()
    last = started
    while (now := time.monotonic()) < started + timeout_s and not (text and now > last + _QUIET_S):
        time.sleep(_POLL_S)
        if more := file.read():
            text, last = text + more, now
    return bytes(text).decode(errors="replace")
