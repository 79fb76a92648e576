"""Measures what this rank's device does: bytes through its memory, operations of a matrix product."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from raydsinfer.bench.roofline import Rates

_TIMES = 5


def measured_rates(device: str, dtype: torch.dtype) -> Rates:
    """The best of several tries; what was used for it is free again.

    Args:
        device: ``cpu`` or ``cuda:0``.
        dtype: Of the matrices.
    """
    rates = Rates(
        bytes_per_s=_copied_bytes_per_s(device),
        operations_per_s=_product_operations_per_s(device, dtype),
    )
    if device != "cpu":
        torch.cuda.empty_cache()
    return rates


def _copied_bytes_per_s(device: str) -> float:
    source = torch.ones(2**25 if device == "cpu" else 2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _best_s(lambda: target.copy_(source), device)  # read and written


def _product_operations_per_s(device: str, dtype: torch.dtype) -> float:
    size = 512 if device == "cpu" else 8192
    # Not zeros: a GPU draws less power on them, and runs faster than on any real matrix.
    factor = torch.randn(size, size, device=device, dtype=dtype)
    out = torch.empty_like(factor)
    return 2 * size**3 / _best_s(lambda: torch.matmul(factor, factor, out=out), device)


def _best_s(work: Callable[[], object], device: str) -> float:
    """Seconds of one call; on a GPU several are in flight at once, so that launching them does not count."""
    on_gpu = device != "cpu"
    repeats = 10 if on_gpu else 1
    best = float("inf")
    for _ in range(_TIMES + 1):  # the first warms up, and is never the best
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        if on_gpu:
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - started) / repeats)
    return best
