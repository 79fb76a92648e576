"""Each GPU: whether it computes, what its generation cannot do, what is left of its memory."""

from __future__ import annotations

import re
from collections.abc import Sequence

from raydsinfer.config import EngineConfig
from raydsinfer.doctor.findings.gpus import DriverFound, DriverGpu, TorchFound, TorchGpu
from raydsinfer.doctor.findings.machine import Machine
from raydsinfer.doctor.verdicts import Level, Verdict, worst
from raydsinfer.engines.capabilities import AMPERE

_GIB = 2**30
_VOLTA = (7, 0)
_USED_SHARE: float = EngineConfig.model_fields["gpu_memory_utilization"].default


def judge_gpus(machine: Machine) -> list[Verdict]:
    """A verdict for each GPU that torch sees; equal ones are one."""
    if not isinstance(machine.torch, TorchFound):
        return []
    told = {gpu.uuid: gpu for gpu in machine.driver.gpus} if isinstance(machine.driver, DriverFound) else {}
    merged: dict[tuple[Level, str, str], list[str]] = {}
    for gpu in machine.torch.gpus:
        verdict = judge_gpu(gpu, told.get(gpu.uuid), machine.torch.archs)
        merged.setdefault((verdict.level, verdict.found, verdict.cure), []).append(str(gpu.index))
    return [
        *(
            Verdict(subject=f"GPU {', '.join(indices)}", level=level, found=found, cure=cure)
            for (level, found, cure), indices in merged.items()
        ),
        *_judge_slices(list(told.values())),
    ]


def _judge_slices(gpus: Sequence[DriverGpu]) -> list[Verdict]:
    cut = sum(gpu.mig for gpu in gpus)
    if not cut:
        return []
    why = f"{cut} of {len(gpus)} GPUs cut into slices, which cannot be ranks of one gang"
    cure = "Turn MIG off (nvidia-smi -mig 0), or use gangs of one rank."
    return [Verdict(subject="MIG", level="yellow", found=why, cure=cure)]


def judge_gpu(gpu: TorchGpu, told: DriverGpu | None, archs: Sequence[str]) -> Verdict:
    """One GPU.

    Args:
        gpu: As torch sees it.
        told: As the driver does; None if it does not say.
        archs: What torch's kernels were compiled for.
    """
    subject = f"GPU {gpu.index}"
    name = f"{gpu.name}, compute capability {_dotted(gpu.capability)}"
    parts = [
        Verdict(subject=subject, level=level, found=found, cure=cure)
        for level, found, cure in (_computing(gpu, archs), _generation(gpu.capability), *_memory(gpu, told))
    ]
    return Verdict(
        subject=subject,
        level=worst(parts),
        found="; ".join([name, *(part.found for part in parts if part.found)]),
        cure=" ".join(part.cure for part in parts if part.cure),
    )


_Part = tuple[Level, str, str]


def _computing(gpu: TorchGpu, archs: Sequence[str]) -> _Part:
    if not runs(gpu.capability, archs):
        why = f"this torch has kernels for {', '.join(archs)} only"
        return "red", why, "Install torch for another CUDA: older GPUs need an older, newer ones a newer."
    if gpu.problem:
        return "red", f"a small product of matrices fails: {gpu.problem}", "See nvidia-smi and dmesg."
    return "green", "", ""


def runs(capability: tuple[int, int], archs: Sequence[str]) -> bool:
    """Whether code for these architectures runs on a GPU.

    A binary (``sm_86``) runs on GPUs of its major version from its minor version on, PTX (``compute_90``) on all
    newer ones; what ends in a letter on its own GPU only. Source: "Application compatibility" in the CUDA C++
    programming guide.

    Args:
        capability: Of the GPU.
        archs: As torch lists them; an unknown list covers all.
    """
    found = [match for arch in archs if (match := re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", arch))]
    for kind, *numbers, letter in (match.groups() for match in found):
        made_for = (int(numbers[0]), int(numbers[1]))
        if letter:
            fits = made_for == capability
        elif kind == "sm":
            fits = made_for[0] == capability[0] and made_for <= capability
        else:
            fits = made_for <= capability
        if fits:
            return True
    return not found


def _generation(capability: tuple[int, int]) -> _Part:
    """What the GPUs of a generation lack; the engine's own limits are in engines/continuous/attention/choice.py."""
    if capability >= AMPERE:
        return "green", "", ""
    lacks = "no bfloat16, FlashAttention, FlexAttention or FlashInfer before Ampere (8.0)"
    if capability < _VOLTA:
        lacks += ", no torch.compile before Volta (7.0)"
    return "yellow", lacks, "Use dtype='float16'; dtype='auto' and attention='auto' take what works."


def _memory(gpu: TorchGpu, told: DriverGpu | None) -> list[_Part]:
    if told is None or not told.total_bytes:  # memory that it shares with the host
        return [("green", f"{gpu.total_bytes / _GIB:.1f} GiB", "")]
    parts: list[_Part] = [("green", f"{told.free_bytes / _GIB:.1f} of {told.total_bytes / _GIB:.1f} GiB free", "")]
    if told.free_bytes < _USED_SHARE * told.total_bytes:
        users = ", ".join(f"process {user.pid} ({user.name}{_used(user.used_bytes)})" for user in told.users)
        cure = f"End what uses it, or lower gpu_memory_utilization (a gang takes {_USED_SHARE:g} of all its memory)."
        parts.append(("yellow", f"in use by {users or 'processes that are not seen from here'}", cure))
    elif told.users:
        parts.append(("green", f"{len(told.users)} process{'es' if len(told.users) > 1 else ''} on it", ""))
    return parts


def _used(used_bytes: int | None) -> str:
    return "" if used_bytes is None else f", {used_bytes / _GIB:.1f} GiB"


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
