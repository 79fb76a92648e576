"""Ray: what runs here, and whether one can start."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import socket
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import psutil

from raydsinfer.doctor.findings.network import LocalRayFound, RayCluster, RayFound

_CONNECT_S = 3.0
_HEAD_PORT = 6379  # of `ray start --head`; Redis's, too
_OBJECT_STORE_BYTES = 80 * 2**20  # little more than the least that Ray takes


def find_ray() -> RayFound:
    """Versions and running clusters; none is joined."""
    clusters = running_clusters([line for process in psutil.process_iter() if (line := _command_line(process))])
    address = os.environ.get("RAY_ADDRESS", "")
    taken = _answers("127.0.0.1", _HEAD_PORT) and not any(c.address.endswith(f":{_HEAD_PORT}") for c in clusters)
    return RayFound(
        version=version("ray"),
        python=".".join(platform.python_version_tuple()[:2]),
        clusters=clusters,
        address=address,
        address_problem=_problem_of(address, clusters),
        port_taken=taken,
    )


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def running_clusters(command_lines: Sequence[Sequence[str]]) -> tuple[RayCluster, ...]:
    """The clusters whose raylets, one a node, are among some processes.

    Args:
        command_lines: Words of each process.
    """
    found = {}
    for words in command_lines:
        if not words or Path(words[0]).name != "raylet":
            continue
        flags = dict(word.lstrip("-").split("=", 1) for word in words[1:] if "=" in word)
        if address := flags.get("gcs-address", flags.get("gcs_address", "")):
            found[address] = RayCluster(address=address, version=_version_at(words[0]), python=_python_at(words[0]))
    return tuple(found.values())


def _version_at(program: str) -> str:
    """Of the package that a program of Ray belongs to."""
    package = program.partition("/ray/core/")[0] + "/ray"
    with contextlib.suppress(OSError):
        if match := re.search(r'^version = "([^"]+)"', (Path(package) / "_version.py").read_text(), re.MULTILINE):
            return match[1]
    return ""


def _python_at(program: str) -> str:
    match = re.search(r"/python(3\.\d+)/", program)
    return match[1] if match else ""


def _problem_of(address: str, clusters: Sequence[RayCluster]) -> str:
    """Why nothing is at an address; empty if something is, or if Ray itself has to look."""
    if address == "auto":
        return "" if clusters else "none runs here"
    host, _, port = address.partition("://")[2].rpartition(":") if "://" in address else address.rpartition(":")
    if not host or not port.isdigit():  # '', 'local'
        return ""
    return "" if _answers(host.strip("[]"), int(port)) else "nothing answers there"


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_S):
            return True
    except OSError:
        return False


def start_local_ray() -> LocalRayFound:
    """Start a Ray of its own, run one task, end it. For a process of its own."""
    import ray

    os.environ.pop("RAY_ADDRESS", None)
    begun = time.monotonic()
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        log_to_driver=False,
    )
    try:
        ray.get(ray.remote(_first_task).remote())
        return LocalRayFound(seconds=time.monotonic() - begun)
    finally:
        ray.shutdown()


def _first_task() -> None:
    pass
