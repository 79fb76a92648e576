"""GPUs: as the driver tells of them, as torch sees them, and talking to each other."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GpuUser:
    """A process on a GPU."""

    pid: int
    name: str
    used_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class DriverGpu:
    """A GPU as the driver tells of it.

    Args:
        uuid: As ``GPU-…``.
        name: Of the product.
        total_bytes: Of its memory.
        free_bytes: Of its memory.
        mig: Whether it is cut into slices.
        capability: Compute capability; None if this driver does not tell.
        users: Processes that compute on it; in a container those of others are not seen.
    """

    uuid: str
    name: str
    total_bytes: int
    free_bytes: int
    mig: bool = False
    capability: tuple[int, int] | None = None
    users: tuple[GpuUser, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DriverFound:
    """NVIDIA's driver.

    Args:
        num_devices: NVIDIA GPUs on the PCI bus, driver or not.
        version: As ``580.65.06``; empty if nvidia-smi does not tell.
        cuda: The newest CUDA that it runs, as (13, 0); None without its library.
        problem: What is wrong with it, in its own words.
        gpus: What nvidia-smi lists.
    """

    num_devices: int
    version: str = ""
    cuda: tuple[int, int] | None = None
    problem: str = ""
    gpus: tuple[DriverGpu, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TorchGpu:
    """A GPU as torch sees it.

    Args:
        index: torch's.
        uuid: As `DriverGpu`'s; empty if torch does not tell.
        name: Of the product.
        capability: Compute capability.
        total_bytes: Of its memory.
        problem: What went wrong with a small product of matrices there.
    """

    index: int
    uuid: str
    name: str
    capability: tuple[int, int]
    total_bytes: int
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class TorchFound:
    """torch.

    Args:
        version: Of torch.
        cuda: The CUDA that it was built for; empty for a CPU build.
        hip: The ROCm that it was built for; empty for none.
        archs: What its kernels were compiled for, as ``sm_90`` and ``compute_90``.
        nccl: Version of NCCL; empty for none.
        problem: Why it finds no GPU, in its own words.
        visible: The variable CUDA_VISIBLE_DEVICES; None if it is not set.
        gpus: What it finds.
    """

    version: str
    cuda: str = ""
    hip: str = ""
    archs: tuple[str, ...] = ()
    nccl: str = ""
    problem: str = ""
    visible: str | None = None
    gpus: tuple[TorchGpu, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AllReduceFound:
    """A sum over all ranks.

    Args:
        backend: ``nccl`` or ``gloo``.
        num_ranks: GPUs, or processes.
        problem: Why there is none, or that it is wrong.
        settings: Variables of the environment that NCCL reads.
    """

    backend: str
    num_ranks: int
    problem: str = ""
    settings: tuple[str, ...] = ()
