"""NVIDIA's driver, and the torch that goes with it."""

from __future__ import annotations

from raydsinfer.doctor.findings.failed import ProbeFailed
from raydsinfer.doctor.findings.gpus import DriverFound, TorchFound
from raydsinfer.doctor.findings.machine import Machine
from raydsinfer.doctor.verdicts import Verdict

_NO_DRIVER = (
    "Install NVIDIA's driver. In a container: start it with the GPUs (docker run --gpus all; nvidia.com/gpu in the "
    "limits of a pod)."
)
_BROKEN = "See nvidia-smi and dmesg. A driver that was updated needs a restart of the machine."
_CUDA_BUILD = "Install torch for CUDA: pytorch.org, Get started, says how."


def judge_driver(machine: Machine) -> list[Verdict]:
    """The driver, and whether torch's CUDA runs on it."""
    found, torch = machine.driver, machine.torch
    if isinstance(found, ProbeFailed):
        why = f"it hangs or crashes: {found.reason}"
        return [Verdict(subject="driver", level="red", found=why, cure=found.cure(_BROKEN))]
    if not machine.has_gpus:
        cure = "Enough for a rehearsal and for small models, on CPU ranks (raydsinfer generate --cpu-ranks 2)."
        return [Verdict(subject="GPU", level="yellow", found="there is no NVIDIA GPU", cure=cure)]
    num_gpus = max(found.num_devices, 0 if isinstance(torch, ProbeFailed) else len(torch.gpus))
    gpus = f"{num_gpus} NVIDIA GPU{'' if num_gpus == 1 else 's'}"
    if found.cuda is None:
        return [
            Verdict(subject="driver", level="red", found=f"{gpus}, but no driver: {found.problem}", cure=_NO_DRIVER)
        ]
    told = f"{found.version or 'of unknown version'}, CUDA up to {_dotted(found.cuda)}, {gpus}"
    if found.problem:
        cure = _NO_DRIVER if "CUDA error 100" in found.problem else _BROKEN  # no device: not given to the container
        return [Verdict(subject="driver", level="red", found=f"{told}, but {found.problem}", cure=cure)]
    if isinstance(torch, TorchFound) and torch.cuda and int(torch.cuda.split(".")[0]) > found.cuda[0]:
        why = f"{told}: too old for this torch, which is built for CUDA {torch.cuda}"
        cure = f"Install a newer driver, or torch for CUDA {found.cuda[0]}."
        return [Verdict(subject="driver", level="red", found=why, cure=cure)]
    return [Verdict(subject="driver", level="green", found=told)]


def judge_torch(machine: Machine) -> list[Verdict]:
    """Whether torch is built for these GPUs and finds them all."""
    found, driver = machine.torch, machine.driver
    if isinstance(found, ProbeFailed):
        cure = found.cure("Install torch again, in a fresh environment.")
        return [Verdict(subject="torch", level="red", found=f"it cannot be used: {found.reason}", cure=cure)]
    built = f"for CUDA {found.cuda}" if found.cuda else f"for ROCm {found.hip}" if found.hip else "a CPU build"
    told = f"{found.version}, {built}" + (f", NCCL {found.nccl}" if found.nccl else "")
    if found.hip:
        return [Verdict(subject="torch", level="yellow", found=f"{told}, which was never tested")]
    if not machine.has_gpus:
        return [Verdict(subject="torch", level="green", found=told)]
    if not found.cuda:
        return [Verdict(subject="torch", level="red", found=f"{told}: it cannot use the GPUs", cure=_CUDA_BUILD)]
    hidden = f"CUDA_VISIBLE_DEVICES={found.visible}"
    if not found.gpus:
        why = hidden if found.visible is not None else found.problem or "it does not say why"
        cure = "Unset that variable." if found.visible is not None else "See the line about the driver."
        return [Verdict(subject="torch", level="red", found=f"{told}, finds no GPU: {why}", cure=cure)]
    if isinstance(driver, DriverFound) and len(found.gpus) < len(driver.gpus) and found.visible is not None:
        why = f"{told}, sees {len(found.gpus)} of {len(driver.gpus)} GPUs: {hidden}"
        cure = "Unset it where Ray starts, unless it is meant."
        return [Verdict(subject="torch", level="yellow", found=why, cure=cure)]
    return [Verdict(subject="torch", level="green", found=told)]


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
