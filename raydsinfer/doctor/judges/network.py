"""Ray and the hub."""

from __future__ import annotations

from collections.abc import Sequence

from raydsinfer.doctor.findings.failed import ProbeFailed
from raydsinfer.doctor.findings.machine import Machine
from raydsinfer.doctor.findings.network import RayCluster, RayFound
from raydsinfer.doctor.verdicts import Verdict

_SAME = "Every process of a cluster needs the same Ray and Python: use the cluster's environment, or --address local."


def judge_ray(machine: Machine) -> list[Verdict]:
    """A running Ray, and whether one can be started."""
    found = machine.ray
    if isinstance(found, ProbeFailed):
        why = f"it could not be looked for: {found.reason}"
        return [Verdict(subject="Ray", level="yellow", found=why, cure=found.cure("")), _judge_start(machine)]
    return [*_judge_running(found), _judge_start(machine)]


def _judge_running(found: RayFound) -> list[Verdict]:
    other = [cluster for cluster in found.clusters if not _alike(cluster, found)]
    here = [f"running: GCS at {', '.join(at)} ({versions})" for versions, at in _by_versions(found.clusters).items()]
    told = f"{found.version}; {'; '.join(here) or 'none runs here'}"
    if found.address:
        told += f"; RAY_ADDRESS={found.address}"
    if found.address_problem:
        why, cure = f"{told}: {found.address_problem}", "Start that cluster, unset RAY_ADDRESS, or say --address local."
        return [Verdict(subject="Ray", level="red", found=why, cure=cure)]
    if other:
        return [Verdict(subject="Ray", level="yellow", found=f"{told}: not the same as this one", cure=_SAME)]
    if found.port_taken:
        why = f"{told}; something that is no Ray of this machine listens at port 6379"
        cure = "ray start --head --port with another one."
        return [Verdict(subject="Ray", level="yellow", found=why, cure=cure)]
    return [Verdict(subject="Ray", level="green", found=told)]


def _alike(cluster: RayCluster, found: RayFound) -> bool:
    return cluster.version in ("", found.version) and cluster.python in ("", found.python)


def _by_versions(clusters: Sequence[RayCluster]) -> dict[str, list[str]]:
    """Addresses by the versions that run there."""
    found: dict[str, list[str]] = {}
    for cluster in clusters:
        versions = [cluster.version and f"Ray {cluster.version}", cluster.python and f"Python {cluster.python}"]
        told = ", ".join(word for word in versions if word) or "unknown version"
        found.setdefault(told, []).append(cluster.address)
    return found


def _judge_start(machine: Machine) -> Verdict:
    found = machine.local_ray
    if isinstance(found, ProbeFailed):
        why = f"none can be started: {found.reason}"
        if found.last_line:
            why += f"; last it said: {found.last_line}"
        cure = found.cure(
            "The newest directory logs/ in Ray's sessions says why; often: no room there, limits, a firewall, a proxy."
        )
        return Verdict(subject="local Ray", level="red", found=why, cure=cure)
    return Verdict(subject="local Ray", level="green", found=f"started, and ran a task after {found.seconds:.1f} s")


def judge_hub(machine: Machine) -> list[Verdict]:
    """Nothing where it was not asked for."""
    found = machine.hub
    if found is None:
        return []
    endpoint = "" if isinstance(found, ProbeFailed) else found.endpoint
    problem = found.reason if isinstance(found, ProbeFailed) else found.problem
    if problem:
        cure = "Give models as directories or URLs; or set HTTPS_PROXY, HF_ENDPOINT, HF_TOKEN, and see HF_HUB_OFFLINE."
        return [Verdict(subject="hub", level="yellow", found=f"{endpoint} {problem}".strip(), cure=cure)]
    user = "no token" if isinstance(found, ProbeFailed) or not found.user else f"token of {found.user}"
    return [Verdict(subject="hub", level="green", found=f"{endpoint} answers; {user}")]
