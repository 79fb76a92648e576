"""Which errors say that memory was short, whoever raised them."""

from __future__ import annotations

import torch

# What others say whose error has no class of its own: the CUDA runtime and driver (and NCCL, which quotes them),
# cuBLAS and cuDNN at the creation of a handle.
_SAID_OF_GPU = (
    "cuda error: out of memory",
    "cuda_error_out_of_memory",
    "cudaerrormemoryallocation",
    "cuda out of memory",
    "'out of memory'",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)
_SAID_OF_HOST = ("defaultcpuallocator: can't allocate memory", "defaultcpuallocator: not enough memory")


def memory_shortage(error: BaseException) -> str:
    """What memory was short, in words, if an error of torch, of a kernel or of Python says so; else nothing.

    Args:
        error: Whatever was raised.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return "out of GPU memory"
    said = str(error).lower() if isinstance(error, RuntimeError) else ""  # AcceleratorError is one, too
    if any(words in said for words in _SAID_OF_GPU):
        return "out of GPU memory"
    if isinstance(error, MemoryError) or any(words in said for words in _SAID_OF_HOST):
        return "out of host memory"
    return ""
