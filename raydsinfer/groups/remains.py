"""What ranks leave on their nodes when they die: children, and processes that take long to end."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydsinfer.groups.nodes import alive_nodes
from raydsinfer.groups.topology import Rank

logger = logging.getLogger(__name__)

_DEATH_TIMEOUT_S = 15.0  # a killed process with tens of GB of pinned memory takes seconds to vanish
_OWN_END_S = 1.0  # a process that Ray asked to end needs milliseconds
_ANSWER_TIMEOUT_S = _DEATH_TIMEOUT_S + 5.0  # a node that is alive starts a process in a second or two
_POLL_S = 0.05


def end_remains(ranks: Sequence[Rank], *, everywhere: bool = True) -> tuple[str, ...]:
    """End all that the processes of some ranks left.

    Call it when the ranks were killed. It returns when they and their children are gone, and with them the memory
    that they had on GPUs.

    Args:
        ranks: The ranks.
        everywhere: Look on each of their nodes, which takes a process there; otherwise on this node only.

    Returns:
        Ids of the nodes that were asked and did not answer: they are gone, or as good as.
    """
    this_node = ray.get_runtime_context().get_node_id()
    here = [rank.pid for rank in ranks if rank.node_id == this_node]
    pids: dict[str, list[int]] = {}
    for rank in ranks if everywhere else ():
        if rank.node_id != this_node:
            pids.setdefault(rank.node_id, []).append(rank.pid)
    alive = {node.node_id for node in alive_nodes()} if pids else set()
    # Beside each other, and before the waiting for what is here.
    tasks = {node_id: _on_node(node_id, there) for node_id, there in pids.items() if node_id in alive}
    _warn("this node", end_processes(here))
    done, _ = ray.wait(list(tasks.values()), num_returns=len(tasks), timeout=_ANSWER_TIMEOUT_S) if tasks else ([], [])
    answered = set()
    for node_id, task in tasks.items():
        with suppress(Exception):  # a node that died meanwhile; what else may be, it did not answer
            if task in done:
                _warn(f"node {node_id}", ray.get(task))
                answered.add(node_id)
    return tuple(sorted(set(pids) - answered))


def end_processes(
    pids: Collection[int], timeout_s: float = _DEATH_TIMEOUT_S, own_end_s: float = _OWN_END_S
) -> list[int]:
    """Kill the ranks of this node, if they are still there, and what is left of their process groups.

    Ray ends an actor by asking its process. One that is killed before it took leave of Ray looks like a crash,
    and Ray says so on the user's terminal.

    Args:
        pids: Process ids of ranks, each the leader of its process group (`lead_process_group`).
        timeout_s: Seconds to wait until all are gone.
        own_end_s: Of these, the seconds that ranks have to end by themselves. Their children have none.

    Returns:
        Those that are still there.
    """
    begin = time.monotonic()
    deadline = begin + timeout_s
    while left := list(_left_of(pids)):
        is_overdue = time.monotonic() - begin >= own_end_s
        for process in left:
            if is_overdue or process.pid not in pids:
                with suppress(psutil.Error):
                    process.kill()
        if time.monotonic() >= deadline:
            break
        time.sleep(_POLL_S)
    return [process.pid for process in left]


def lead_process_group() -> None:
    """Give this process a process group of its own: what it starts can be found when it is dead."""
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)


def _left_of(pids: Collection[int]) -> Iterable[psutil.Process]:
    # A process id is not given out anew while there is anybody in the process group of that name.
    leaders = {pid for pid in pids if not _is_stranger(pid)}
    for pid in psutil.pids() if leaders else ():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(pid) in leaders and _holds_something(process := psutil.Process(pid)):
                yield process


def _is_stranger(pid: int) -> bool:
    try:
        title = psutil.Process(pid).cmdline()
    except psutil.Error:  # it is gone, as it should, or a zombie
        return False
    # So Ray names ranks. One that is just ending has no title any more.
    return bool(title) and not title[0].startswith("ray::Worker")


def _holds_something(process: psutil.Process) -> bool:
    # A zombie waits for its parent to ask for its exit code. Its other threads may still be giving memory back.
    return bool(process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)


def _on_node(node_id: str, pids: Sequence[int]) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    remote: Any = ray.remote(num_cpus=0, max_retries=0)(end_processes)
    return remote.options(scheduling_strategy=strategy).remote(pids)


def _warn(where: str, left: Sequence[int]) -> None:
    if left:
        logger.warning("processes %s on %s were killed but are still there", list(left), where)
