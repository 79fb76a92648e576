"""torch and the GPUs that it finds."""

from __future__ import annotations

import os
import warnings
from typing import Any

from raydsinfer.doctor.findings.gpus import TorchFound, TorchGpu
from raydsinfer.errors import summary_of


def find_torch() -> TorchFound:
    """What torch was built for, and whether each GPU multiplies. For a process of its own: it may crash."""
    import torch

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        there = torch.cuda.is_available()
    nccl: Any = torch.cuda.nccl  # has no annotations
    built = bool(torch.version.cuda)
    return TorchFound(
        version=torch.__version__,
        cuda=torch.version.cuda or "",
        hip=getattr(torch.version, "hip", None) or "",
        archs=_archs() if built else (),
        nccl=".".join(map(str, nccl.version())) if built and torch.distributed.is_nccl_available() else "",
        problem="" if there or not warned else str(warned[-1].message).splitlines()[0],
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        gpus=tuple(_gpu(index) for index in range(torch.cuda.device_count())) if there else (),
    )


def _archs() -> tuple[str, ...]:
    """As `torch.cuda.get_arch_list`, which tells nothing to a process that was given no GPU."""
    import torch

    flags = getattr(torch._C, "_cuda_getArchFlags", lambda: "")()
    return tuple((flags or "").split())


def _gpu(index: int) -> TorchGpu:
    import torch

    properties = torch.cuda.get_device_properties(index)
    uuid = str(getattr(properties, "uuid", "")).removeprefix("GPU-")
    return TorchGpu(
        index=index,
        uuid=f"GPU-{uuid}" if uuid else "",
        name=properties.name,
        capability=(properties.major, properties.minor),
        total_bytes=properties.total_memory,
        problem=_problem_of(index),
    )


def _problem_of(index: int) -> str:
    """What goes wrong with a product of matrices whose result is known."""
    import torch

    size = 64
    try:
        ones = torch.ones(size, size, dtype=torch.float16, device=f"cuda:{index}")
        sum_of_products = float((ones @ ones).sum())
    except Exception as error:  # out of memory, no kernel image, …
        return summary_of(error)
    return "" if sum_of_products == size**3 else f"a sum of {size**3} came out as {sum_of_products:g}"
