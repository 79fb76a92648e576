"""Memory, shared memory, limits and disks."""

from __future__ import annotations

import math

from raydsinfer.checkpoints.sizes import memory_in_words
from raydsinfer.doctor.findings.failed import ProbeFailed
from raydsinfer.doctor.findings.machine import Machine
from raydsinfer.doctor.findings.node import DirectoryFound, LimitsFound, NodeFound
from raydsinfer.doctor.verdicts import Level, Verdict, worst

_SHM = "/dev/shm"  # noqa: S108
_GIB = 2**30
LEAST_SHM_BYTES = _GIB
"""NCCL's rings take tens of MB a pair of GPUs, and Docker's 64 MB are the usual reason why it fails."""

RANK_HOST_BYTES = int(1.6 * _GIB)
"""Host memory of a rank whose weights go to a GPU slice by slice: the most that was measured (docs/benchmarks.md:
OPT-13b on an H100, 1.14 to 1.56 GiB, pinned buffers included)."""

# What Ray's object store takes by default: `DEFAULT_OBJECT_STORE_MEMORY_PROPORTION` and
# `DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES` in ray_constants.py. It goes to the disk where /dev/shm has less.
_STORE_SHARE, _STORE_MOST_BYTES = 0.3, 200e9

# Ray recommends 8192 open files (worker.py). Of processes threads count, some hundred a rank on a large machine.
_ENOUGH_OPEN_FILES, _LEAST_OPEN_FILES = 8_192, 1_024
_ENOUGH_PROCESSES, _LEAST_PROCESSES = 4_096, 1_024
_LEAST_FREE: dict[str, int] = {"models": 10 * _GIB}  # small models; Ray's own limit is a share
_FULL_SHARE = 0.95  # `local_fs_capacity_threshold` of Ray: fuller disks take no objects


def judge_node(machine: Machine) -> list[Verdict]:
    """Memory, shared memory, limits, directories."""
    found = machine.node
    if isinstance(found, ProbeFailed):
        return [
            Verdict(
                subject="machine",
                level="yellow",
                found=f"it could not be looked at: {found.reason}",
                cure=found.cure(""),
            )
        ]
    return [
        _judge_memory(found, machine),
        _judge_shm(found, machine),
        _judge_limits(found.limits),
        *(_judge_directory(directory) for directory in found.directories),
    ]


def _judge_memory(found: NodeFound, machine: Machine) -> Verdict:
    told = f"{memory_in_words(found.available_bytes)} of {memory_in_words(found.memory_bytes)} available"
    if found.available_bytes < _num_gpus(machine) * RANK_HOST_BYTES:
        each = memory_in_words(RANK_HOST_BYTES)
        why = f"{told}: little for {_num_gpus(machine)} ranks, each of which takes up to {each}"
        return Verdict(subject="host memory", level="yellow", found=why, cure="End what uses it, or run fewer ranks.")
    return Verdict(subject="host memory", level="green", found=told)


def _judge_shm(found: NodeFound, machine: Machine) -> Verdict:
    told = f"{memory_in_words(found.shm_free_bytes)} of {memory_in_words(found.shm_bytes)} free"
    wanted = min(_STORE_SHARE * found.memory_bytes, _STORE_MOST_BYTES)
    enough = f"--shm-size={math.ceil(wanted / _GIB) + 1}g"  # Docker's g is a GiB
    cure = f"Delete what lies there, or give the container more: docker run {enough}; an emptyDir of medium Memory."
    if found.shm_free_bytes < LEAST_SHM_BYTES and _num_gpus(machine) > 1:
        why = f"{told}: little for NCCL between {_num_gpus(machine)} GPUs"
        level: Level = "yellow" if _talk(machine) else "red"
        return Verdict(subject=_SHM, level=level, found=why, cure=cure)
    if found.shm_free_bytes < wanted:
        why = f"{told}: Ray wants {memory_in_words(wanted)} for its objects; it takes less, or puts them on a disk"
        return Verdict(subject=_SHM, level="yellow", found=why, cure=cure)
    return Verdict(subject=_SHM, level="green", found=told)


def _num_gpus(machine: Machine) -> int:
    return 0 if isinstance(machine.torch, ProbeFailed) else len(machine.torch.gpus)


def _talk(machine: Machine) -> bool:
    return not isinstance(machine.all_reduce, ProbeFailed) and not machine.all_reduce.problem


def _judge_limits(limits: LimitsFound) -> Verdict:
    locked: Level = "yellow" if limits.infiniband and limits.locked_bytes is not None else "green"
    lockable = "no limit on" if limits.locked_bytes is None else memory_in_words(limits.locked_bytes)
    parts = [
        (f"{_number(limits.open_files)} open files", _low(limits.open_files, _LEAST_OPEN_FILES, _ENOUGH_OPEN_FILES),
         "ulimit -Hn 65536 (docker run --ulimit nofile=65536)"),
        (f"{_number(limits.processes)} processes", _low(limits.processes, _LEAST_PROCESSES, _ENOUGH_PROCESSES),
         "ulimit -u unlimited (docker run --pids-limit -1)"),
        (f"{lockable} locked memory", locked,
         "ulimit -l unlimited (docker run --ulimit memlock=-1), which NCCL needs for InfiniBand"),
    ]  # fmt: skip
    verdicts = [Verdict(subject="limits", level=level, found=found, cure=cure) for found, level, cure in parts]
    cures = [verdict.cure for verdict in verdicts if verdict.level != "green"]
    return Verdict(
        subject="limits",
        level=worst(verdicts),
        found=", ".join(verdict.found for verdict in verdicts),
        cure=f"Where Ray starts: {'; '.join(cures)}." if cures else "",
    )


def _low(limit: int | None, least: int, wanted: int) -> Level:
    if limit is None or limit >= wanted:
        return "green"
    return "red" if limit < least else "yellow"


def _judge_directory(found: DirectoryFound) -> Verdict:
    told = f"{found.path}: {memory_in_words(found.free_bytes)} of {memory_in_words(found.total_bytes)} free"
    elsewhere = f"Make room, or let {found.setting} name another directory."
    if found.problem:
        cure = f"Let {found.setting} name another directory."
        return Verdict(subject=found.role, level="red", found=f"{told}; {found.problem}", cure=cure)
    if found.free_bytes < (1 - _FULL_SHARE) * found.total_bytes and found.role == "Ray's sessions":
        why = f"{told}; Ray writes no objects to a disk that is {_FULL_SHARE:.0%} full"
        return Verdict(subject=found.role, level="red", found=why, cure=elsewhere)
    if found.free_bytes < _LEAST_FREE.get(found.role, _GIB):
        return Verdict(subject=found.role, level="yellow", found=f"{told}: that is little", cure=elsewhere)
    return Verdict(subject=found.role, level="green", found=told)


def _number(limit: int | None) -> str:
    return "any number of" if limit is None else f"{limit:,}"
