"""Memory, shared memory, limits, disks."""

from __future__ import annotations

import getpass
import os
import resource
import shutil
import tempfile
from pathlib import Path

import psutil

from raydsinfer.checkpoints.sources.fetch import cache_directory
from raydsinfer.doctor.findings.node import DirectoryFound, LimitsFound, NodeFound
from raydsinfer.engines.deepspeed_ops import extensions_directory

_CGROUP = Path("/sys/fs/cgroup")
_SHM = Path("/dev/shm")  # noqa: S108


def find_node() -> NodeFound:
    """The machine apart from its GPUs."""
    memory, available = _memory()
    shm = shutil.disk_usage(_SHM) if _SHM.is_dir() else None
    return NodeFound(
        memory_bytes=memory,
        available_bytes=available,
        shm_bytes=shm.total if shm else 0,
        shm_free_bytes=shm.free if shm else 0,
        limits=_limits(),
        directories=(
            look_at("models", cache_directory(None).parent, "HF_HOME"),
            look_at("compiled ops", extensions_directory(), "TORCH_EXTENSIONS_DIR", runs=True),
            look_at("compiled layers", _inductor_directory(), "TORCHINDUCTOR_CACHE_DIR", runs=True),
            look_at("Ray's sessions", Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray", "RAY_TMPDIR"),  # noqa: S108
        ),
    )


def _memory() -> tuple[int, int]:
    """Bytes in all and available, of the host or of its container."""
    host = psutil.virtual_memory()
    limit, used = _cgroup_number("memory.max"), _cgroup_number("memory.current")
    if limit is None or limit >= host.total:
        return host.total, host.available
    # Files that were read count as used, and make room when it is needed.
    cached = _cgroup_cached()
    return limit, max(0, min(host.available, limit - max(0, (used or 0) - cached)))


def _cgroup_cached() -> int:
    try:
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))


def _inductor_directory() -> Path:
    # As torch's own `default_cache_dir`.
    named = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    return Path(named) if named else Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"


def look_at(role: str, path: Path, setting: str, *, runs: bool = False) -> DirectoryFound:
    """A directory, or the one above it that is there already.

    Args:
        role: What it is for.
        path: May not exist yet; it is not made.
        setting: The variable that moves it.
        runs: Whether what lies there is loaded as code.
    """
    there = path.expanduser().absolute()
    while not there.exists():
        there = there.parent
    usage, flags = shutil.disk_usage(there), os.statvfs(there).f_flag
    problem = mount_problem(flags, runs=runs)
    if not there.is_dir():
        problem = f"{there} is no directory"
    elif not problem and not os.access(there, os.W_OK | os.X_OK):
        problem = f"user {getpass.getuser()} may not write in {there}"
    return DirectoryFound(
        role=role, path=str(path), setting=setting, total_bytes=usage.total, free_bytes=usage.free, problem=problem
    )


def mount_problem(flags: int, *, runs: bool) -> str:
    """Why a file system does not serve; empty if it does.

    Args:
        flags: Of its mount, as `os.statvfs` gives them.
        runs: Whether what lies there is loaded as code.
    """
    if flags & os.ST_RDONLY:
        return "its file system is mounted read-only"
    if runs and flags & os.ST_NOEXEC:
        return "its file system is mounted noexec: no library there can be loaded"
    return ""


def _limits() -> LimitsFound:
    processes = [_finite(resource.getrlimit(resource.RLIMIT_NPROC)[0]), _cgroup_number("pids.max")]
    infiniband = Path("/sys/class/infiniband")
    return LimitsFound(
        open_files=_finite(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        processes=min((limit for limit in processes if limit is not None), default=None),
        locked_bytes=_finite(resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]),
        infiniband=infiniband.is_dir() and any(infiniband.iterdir()),
    )


def _finite(limit: int) -> int | None:
    return None if limit == resource.RLIM_INFINITY else limit


def _cgroup_number(name: str) -> int | None:
    """Of the container that this process is in, as it sees it itself (cgroup v2); None: not told, or no limit."""
    try:
        return int((_CGROUP / name).read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None
