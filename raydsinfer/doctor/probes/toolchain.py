"""Compilers, each with a small piece of the work that they are needed for."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from raydsinfer.doctor.findings.building import ToolchainFound, ToolFound
from raydsinfer.doctor.probes.command import Ran, ran

_TIMEOUT_S = 60.0

# Triton's launchers include Python's headers; C++ extensions of torch do, too.
_C = "#include <Python.h>\nint answer(void) { return PY_MAJOR_VERSION; }\n"
_CXX = "#include <Python.h>\n#include <vector>\nint answer() { return std::vector<int>{1, 2}.size(); }\n"
# Headers and the library that DeepSpeed's kernels take from CUDA.
_CUDA = """#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <curand_kernel.h>
__global__ void twice(float* numbers) { numbers[threadIdx.x] *= 2; }
"""


def find_toolchain() -> ToolchainFound:
    """C and C++ compilers, nvcc and ninja."""
    include = f"-I{sysconfig.get_paths()['include']}"
    return ToolchainFound(
        c=_tool(os.environ.get("CC"), ("gcc", "clang", "cc"), "work.c", _C, ["-c", include, "-o", "work.o"]),
        cxx=_tool(os.environ.get("CXX"), ("c++", "g++", "clang++"), "work.cpp", _CXX, ["-c", include, "-o", "work.o"]),
        nvcc=find_nvcc(),
        ninja=find_ninja(),
    )


def _tool(named: str | None, names: Sequence[str], file: str, source: str, flags: list[str]) -> ToolFound:
    """The compiler that the environment names, or the first on the PATH."""
    command = shlex.split(named) if named else [next((name for name in names if shutil.which(name)), "")]
    path = shutil.which(command[0])
    if path is None:
        return ToolFound(path="", problem=f"{named} is not there" if named else "")
    return ToolFound(
        path=path, version=_version(path), problem=_work([path, *command[1:]], file, source, flags).problem
    )


def find_nvcc() -> ToolFound:
    """nvcc where torch looks for it."""
    from torch.utils.cpp_extension import CUDA_HOME

    homes = [home for home in (CUDA_HOME, os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")) if home]
    places = [str(Path(home) / "bin" / "nvcc") for home in homes]
    found = next((path for path in [*places, "nvcc", "/usr/local/cuda/bin/nvcc"] if shutil.which(path)), None)
    path = shutil.which(found) if found else None
    if path is None:
        return ToolFound(path="", problem=f"there is none in {homes[0]}" if homes else "")
    work = _work([path], "work.cu", _CUDA, ["-shared", "-Xcompiler", "-fPIC", "-lcurand", "-o", "work.so"])
    lines = ran([path, "--version"], timeout_s=_TIMEOUT_S).output.splitlines()
    release = next((line.partition("release ")[2].split(",")[0] for line in lines if "release " in line), "")
    return ToolFound(path=path, version=release, problem=work.problem)


def find_ninja() -> ToolFound:
    """ninja on the PATH, where torch looks for it."""
    path = shutil.which("ninja")
    if path is not None:
        asked = ran([path, "--version"], timeout_s=_TIMEOUT_S)
        return ToolFound(path=path, version=asked.output.strip(), problem=asked.problem)
    beside = Path(sys.executable).parent / "ninja"  # of an environment that was not activated
    return ToolFound(path="", beside=str(beside) if beside.is_file() else "")


def _version(path: str) -> str:
    lines = ran([path, "--version"], timeout_s=_TIMEOUT_S).output.splitlines()
    return lines[0].strip() if lines else ""


def _work(command: list[str], file: str, source: str, flags: list[str]) -> Ran:
    with tempfile.TemporaryDirectory(prefix="raydsinfer-") as scratch:
        (Path(scratch) / file).write_text(source)
        return ran([*command, file, *flags], timeout_s=_TIMEOUT_S, directory=Path(scratch))
