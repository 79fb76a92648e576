"""Memory, limits, disks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LimitsFound:
    """Limits of a process.

    Args:
        open_files: Hard limit, to which Ray raises its own; None: without limit.
        processes: Smaller one of the user's and the container's; None: without limit.
        locked_bytes: Soft limit of memory that stays in place; None: without limit.
        infiniband: Whether there is an adapter that needs such memory.
    """

    open_files: int | None
    processes: int | None
    locked_bytes: int | None
    infiniband: bool = False


@dataclass(frozen=True, kw_only=True)
class DirectoryFound:
    """A directory that fills.

    Args:
        role: What it is for.
        path: Where it is, or will be.
        setting: The variable that moves it.
        total_bytes: Of its disk.
        free_bytes: Of its disk.
        problem: Why nothing can be written, or run, there.
    """

    role: str
    path: str
    setting: str
    total_bytes: int
    free_bytes: int
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class NodeFound:
    """The rest of the machine.

    Args:
        memory_bytes: Of the host, or what its container may take.
        available_bytes: What is left of that, page cache included.
        shm_bytes: Size of /dev/shm.
        shm_free_bytes: What is left of it.
        limits: Of this process.
        directories: Caches and scratch.
    """

    memory_bytes: int
    available_bytes: int
    shm_bytes: int
    shm_free_bytes: int
    limits: LimitsFound
    directories: tuple[DirectoryFound, ...]
