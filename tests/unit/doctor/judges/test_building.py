from dataclasses import replace

import pytest

from raydsinfer.doctor.findings.building import ToolFound
from raydsinfer.engines.deepspeed_ops import OpFound, OpsFound
from tests.unit.doctor.machines import NO_TOOL, TOOLS, h100s, laptop, verdict

NO_CUBLAS = ToolFound(
    path="/usr/bin/nvcc", version="13.0", problem="fatal error: cublas_v2.h: No such file or directory"
)


@pytest.mark.parametrize(
    ("tool", "subject", "cure"),
    [
        ("c", "C compiler", "torch_compile=False"),
        ("cxx", "C++ compiler", "g++"),
        ("nvcc", "nvcc", "CUDA toolkit 13.0"),
        ("ninja", "ninja", "pip install ninja"),
    ],
)
def test_a_tool_that_is_not_there(tool: str, subject: str, cure: str) -> None:
    machine = replace(h100s(), toolchain=replace(TOOLS, **{tool: NO_TOOL}))
    found = verdict(machine, subject)
    assert (found.level, "not there" in found.found, cure in found.cure) == ("yellow", True, True)
    kernels = verdict(machine, "DeepSpeed kernels")
    assert kernels.level == ("green" if tool == "c" else "yellow")


def test_a_tool_that_does_not_work() -> None:
    machine = replace(h100s(), toolchain=replace(TOOLS, nvcc=NO_CUBLAS))
    assert (verdict(machine, "nvcc").level, "cublas_v2.h" in verdict(machine, "nvcc").found) == ("yellow", True)
    assert "it lacks a working nvcc" in verdict(machine, "DeepSpeed kernels").found


def test_without_a_gpu_no_tool_is_needed() -> None:
    machine = replace(laptop(), toolchain=replace(TOOLS, nvcc=NO_CUBLAS, c=NO_TOOL))
    assert [verdict(machine, name).level for name in ("nvcc", "C compiler", "DeepSpeed kernels")] == ["green"] * 3
    assert "not needed without a GPU" in verdict(machine, "nvcc").found


def test_ninja_beside_the_interpreter_only() -> None:
    beside = ToolFound(path="", beside="/env/bin/ninja")
    assert "/env/bin/ninja" in verdict(replace(h100s(), toolchain=replace(TOOLS, ninja=beside)), "ninja").cure


def ops(*found: OpFound, mismatch: str = "") -> OpsFound:
    return OpsFound(accelerator="cuda", ops=found, mismatch=mismatch)


@pytest.mark.parametrize(
    ("found", "level", "says"),
    [
        (
            ops(OpFound(name="transformer_inference", built="/cache/transformer_inference.so")),
            "green",
            "is built, in /cache",
        ),
        (
            ops(OpFound(name="transformer_inference", built="with DeepSpeed"), mismatch="x"),
            "green",
            "is built, with DeepSpeed",
        ),
        (ops(OpFound(name="transformer_inference")), "green", "not built yet"),
        (ops(OpFound(name="transformer_inference"), mismatch="CUDAMismatchException: 12.4"), "yellow", "12.4"),
        (ops(OpFound(name="transformer_inference", problem="only Pascal and newer")), "yellow", "only Pascal"),
        (ops(), "yellow", "no such op"),
    ],
)
def test_the_op_of_kernel_injection(found: OpsFound, level: str, says: str) -> None:
    kernels = verdict(replace(h100s(), ops=found), "DeepSpeed kernels")
    assert (kernels.level, says in kernels.found) == (level, True)
    assert ("kernel_inject=False" in kernels.cure) == (level == "yellow")


def test_other_ops_in_one_line() -> None:
    found = ops(OpFound(name="a", built="x"), OpFound(name="b"), OpFound(name="c"), OpFound(name="d", problem="no"))
    told = verdict(replace(h100s(), ops=found), "its other ops").found
    assert told == "built: a; can be built: b, c; cannot be: d (none is needed)"
