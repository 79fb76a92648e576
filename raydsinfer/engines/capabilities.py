"""What a generation of GPUs can compute with. Pure."""

from __future__ import annotations

AMPERE = (8, 0)
"""Compute capability from which GPUs have bfloat16, and what FlashAttention 2, FlexAttention and FlashInfer need."""


def dtype_problem(dtype: str, capability: tuple[int, int]) -> str:
    """Why weights of a dtype are of no use on a GPU; empty if they are fine.

    Args:
        dtype: As in `EngineConfig.dtype`.
        capability: Compute capability of the GPU.
    """
    if dtype == "bfloat16" and capability < AMPERE:
        has = ".".join(map(str, capability))
        return f"bfloat16 needs a GPU of compute capability 8.0 (Ampere) or newer, this one has {has}"
    return ""
