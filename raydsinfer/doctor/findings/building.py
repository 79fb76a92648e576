"""Compilers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ToolFound:
    """A program.

    Args:
        path: Empty if it is not there.
        version: In its own words.
        problem: What it said to a small piece of work.
        beside: Where it is, though not on the PATH.
    """

    path: str
    version: str = ""
    problem: str = ""
    beside: str = ""


@dataclass(frozen=True, kw_only=True)
class ToolchainFound:
    """What compiles: C for torch.compile, C++, nvcc and ninja for the kernels of DeepSpeed and FlashInfer.

    Args:
        c: The C compiler; its work includes Python's headers.
        cxx: The C++ compiler.
        nvcc: CUDA's compiler; its work includes and links libraries of CUDA.
        ninja: Runs them.
    """

    c: ToolFound
    cxx: ToolFound
    nvcc: ToolFound
    ninja: ToolFound
