"""What can be compiled: layers by torch.compile, kernels by DeepSpeed and FlashInfer."""

from __future__ import annotations

from raydsinfer.doctor.findings.building import ToolchainFound, ToolFound
from raydsinfer.doctor.findings.failed import ProbeFailed
from raydsinfer.doctor.findings.machine import Machine
from raydsinfer.doctor.verdicts import Verdict
from raydsinfer.engines.deepspeed_ops import KERNELS, OpFound, OpsFound

_FOR_LAYERS = "torch.compile and FlexAttention need it; without it layers run uncompiled, and slower"
_FOR_KERNELS = "kernel_inject=True and FlashInfer need it; all else works without"


def judge_toolchain(machine: Machine) -> list[Verdict]:
    """Compilers, nvcc and ninja. Without a GPU none of them is needed."""
    found = machine.toolchain
    if isinstance(found, ProbeFailed):
        return [
            Verdict(
                subject="compilers",
                level="yellow",
                found=f"they could not be tried: {found.reason}",
                cure=found.cure(""),
            )
        ]
    headers = "Install a C compiler and Python's headers (apt-get install gcc python3-dev), or torch_compile=False."
    cxx = "Install a C++ compiler and Python's headers (apt-get install g++ python3-dev)."
    nvcc = f"Install the CUDA toolkit{_of_torch(machine)} with its libraries, not nvcc alone; or set CUDA_HOME."
    ninja = f"Put {found.ninja.beside} on the PATH: activate its environment." if found.ninja.beside else (
        "pip install ninja, into an environment that is activated where Ray starts."
    )  # fmt: skip
    return [
        _judge_tool("C compiler", found.c, _FOR_LAYERS, headers, needed=machine.has_gpus),
        _judge_tool("C++ compiler", found.cxx, _FOR_KERNELS, cxx, needed=machine.has_gpus),
        _judge_tool("nvcc", found.nvcc, _FOR_KERNELS, nvcc, needed=machine.has_gpus),
        _judge_tool("ninja", found.ninja, _FOR_KERNELS, ninja, needed=machine.has_gpus),
    ]


def _of_torch(machine: Machine) -> str:
    version = "" if isinstance(machine.torch, ProbeFailed) else machine.torch.cuda
    return f" {version}" if version else ""


def _judge_tool(subject: str, tool: ToolFound, needed_for: str, cure: str, *, needed: bool) -> Verdict:
    there = ", ".join(word for word in (tool.version, tool.path) if word) or "not there"
    told = f"{there}: {tool.problem}" if tool.problem else there
    if tool.path and not tool.problem:
        return Verdict(subject=subject, level="green", found=told)
    if not needed:
        return Verdict(subject=subject, level="green", found=f"{told} (not needed without a GPU)")
    return Verdict(subject=subject, level="yellow", found=f"{told}. {needed_for}", cure=cure)


def judge_ops(machine: Machine) -> list[Verdict]:
    """The op of kernel injection; the others in one line."""
    found = machine.ops
    if isinstance(found, ProbeFailed):
        why = f"it cannot be used: {found.reason}"
        return [Verdict(subject="DeepSpeed", level="red", found=why, cure=found.cure("Install it again, after torch."))]
    kernels = next((op for op in found.ops if op.name == KERNELS), OpFound(name=KERNELS, problem="no such op"))
    others = [op for op in found.ops if op.name != KERNELS]
    return [_judge_kernels(kernels, found, machine), _told_others(others)]


def _judge_kernels(op: OpFound, ops: OpsFound, machine: Machine) -> Verdict:
    subject = "DeepSpeed kernels"
    if ops.accelerator == "cpu":
        return Verdict(
            subject=subject, level="green", found="on CPU ranks their PyTorch versions run: nothing to build"
        )
    if op.built:
        where = op.built if op.built.startswith("with") else f"in {op.built}"
        return Verdict(subject=subject, level="green", found=f"{op.name} is built, {where}")
    if problem := kernels_problem(ops, machine.toolchain):
        cure = "Use kernel_inject=False, which needs no kernels; or mend what is missing."
        return Verdict(subject=subject, level="yellow", found=f"{op.name} cannot be built: {problem}", cure=cure)
    told = f"{op.name} is not built yet; the first gang with kernel_inject=True does it, in about a minute"
    return Verdict(subject=subject, level="green", found=told)


def kernels_problem(ops: OpsFound, toolchain: ToolchainFound | ProbeFailed) -> str:
    """Why the op of kernel injection is not built and cannot be; empty if it is or can.

    Args:
        ops: As DeepSpeed tells of them.
        toolchain: Compilers; one that could not be tried is taken to work.
    """
    op = next((op for op in ops.ops if op.name == KERNELS), OpFound(name=KERNELS, problem="no such op"))
    if op.built:
        return ""
    return op.problem or ops.mismatch or _missing(toolchain)


def _missing(toolchain: ToolchainFound | ProbeFailed) -> str:
    if not isinstance(toolchain, ToolchainFound):
        return ""
    tools = {"C++ compiler": toolchain.cxx, "nvcc": toolchain.nvcc, "ninja": toolchain.ninja}
    lacking = [name for name, tool in tools.items() if not tool.path or tool.problem]
    return f"it lacks a working {', '.join(lacking)}" if lacking else ""


def _told_others(ops: list[OpFound]) -> Verdict:
    """For who uses DeepSpeed for more; nothing here needs them."""
    built = [op.name for op in ops if op.built]
    possible = [op.name for op in ops if not op.built and not op.problem]
    impossible = [op.name for op in ops if not op.built and op.problem]
    parts = [
        f"{words}: {', '.join(names)}"
        for words, names in (("built", built), ("can be built", possible), ("cannot be", impossible))
        if names
    ]
    return Verdict(subject="its other ops", level="green", found=f"{'; '.join(parts)} (none is needed)")
