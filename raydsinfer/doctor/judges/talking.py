"""Whether the GPUs of this machine can talk to each other."""

from __future__ import annotations

from raydsinfer.doctor.findings.failed import ProbeFailed
from raydsinfer.doctor.findings.machine import Machine
from raydsinfer.doctor.findings.node import NodeFound
from raydsinfer.doctor.judges.node import LEAST_SHM_BYTES
from raydsinfer.doctor.verdicts import Verdict

_CURES = {
    "nccl": "Run it again with NCCL_DEBUG=INFO. If it is right with NCCL_P2P_DISABLE=1, the direct path between GPUs "
    "is what fails: turn IOMMU or ACS off; otherwise look at /dev/shm and the network interfaces (NCCL_SOCKET_IFNAME).",
    "gloo": "Processes of this machine must reach each other through its loopback interface.",
}


def judge_all_reduce(machine: Machine) -> list[Verdict]:
    """NCCL, or gloo where there are not two GPUs."""
    found = machine.all_reduce
    gpus = 0 if isinstance(machine.torch, ProbeFailed) else len(machine.torch.gpus)
    backend, num_ranks = ("nccl", gpus) if gpus > 1 else ("gloo", 2)
    subject = "NCCL" if backend == "nccl" else "gloo"
    between = f"between {num_ranks} {'GPUs' if backend == 'nccl' else 'CPU processes'}"
    problem = found.reason if isinstance(found, ProbeFailed) else found.problem
    settings = "" if isinstance(found, ProbeFailed) or not found.settings else f" ({', '.join(found.settings)})"
    if not problem:
        alone = "; one GPU has nobody to talk to through NCCL" if gpus == 1 else ""
        return [Verdict(subject=subject, level="green", found=f"a sum {between} is right{settings}{alone}")]
    if isinstance(found, ProbeFailed) and found.last_line:
        problem = f"{problem}; last it said: {found.last_line}"
    cure = found.cure(_CURES[backend]) if isinstance(found, ProbeFailed) else _CURES[backend]
    if isinstance(machine.node, NodeFound) and machine.node.shm_bytes < LEAST_SHM_BYTES:
        cure = f"First see the line about /dev/shm. {cure}"
    return [Verdict(subject=subject, level="red", found=f"a sum {between} fails{settings}: {problem}", cure=cure)]
