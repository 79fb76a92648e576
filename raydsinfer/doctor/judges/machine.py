"""All verdicts, in the order of reading."""

from __future__ import annotations

from raydsinfer.doctor.findings.failed import ProbeFailed
from raydsinfer.doctor.findings.machine import Machine
from raydsinfer.doctor.judges.building import judge_ops, judge_toolchain
from raydsinfer.doctor.judges.driver import judge_driver, judge_torch
from raydsinfer.doctor.judges.gpus import judge_gpus
from raydsinfer.doctor.judges.network import judge_hub, judge_ray
from raydsinfer.doctor.judges.node import judge_node
from raydsinfer.doctor.judges.software import judge_python
from raydsinfer.doctor.judges.talking import judge_all_reduce
from raydsinfer.doctor.verdicts import Verdict


def judge(machine: Machine) -> list[Verdict]:
    """What to think of a machine.

    Args:
        machine: What the probes found.
    """
    if isinstance(machine.python, ProbeFailed):
        why = f"they could not be looked at: {machine.python.reason}"
        software = [Verdict(subject="packages", level="yellow", found=why)]
    else:
        software = judge_python(machine.python)
    judges = (
        judge_driver,
        judge_torch,
        judge_gpus,
        judge_all_reduce,
        judge_toolchain,
        judge_ops,
        judge_node,
        judge_ray,
        judge_hub,
    )
    return [*software, *(verdict for judge_part in judges for verdict in judge_part(machine))]
