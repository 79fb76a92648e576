from __future__ import annotations

import pytest
import torch

from raydsinfer.engines.out_of_memory import memory_shortage


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("NCCL Error 1: ... Cuda failure 2 'out of memory'"),
        RuntimeError("CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY"),
    ],
)
def test_memory_of_the_gpu_was_short(error: Exception) -> None:
    assert memory_shortage(error) == "out of GPU memory"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("size mismatch"),
        ValueError("'out of memory'"),
    ],
)
def test_it_was_something_else(error: Exception) -> None:
    assert memory_shortage(error) == ""


def test_memory_of_the_host_was_short() -> None:
    assert memory_shortage(MemoryError()) == "out of host memory"
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46, dtype=torch.float64)
    assert memory_shortage(caught.value) == "out of host memory"
