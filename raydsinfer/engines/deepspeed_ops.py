"""DeepSpeed's compiled ops: which are built, which can be."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from raydsinfer.errors import summary_of

KERNELS = "transformer_inference"
"""The op of kernel injection: the only one that this library builds."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, kw_only=True)
class OpFound:
    """An op.

    Args:
        name: DeepSpeed's.
        built: Where its library lies, or ``with DeepSpeed``; empty if it is not built.
        problem: Why DeepSpeed's builder would not build it; empty if it would.
    """

    name: str
    built: str = ""
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class OpsFound:
    """All ops.

    Args:
        accelerator: ``cuda`` or ``cpu``.
        ops: By name.
        mismatch: Why DeepSpeed would not compile for torch's CUDA with the nvcc that is here.
    """

    accelerator: str
    ops: tuple[OpFound, ...]
    mismatch: str = ""


def find_ops(accelerator: str) -> OpsFound:
    """Ask DeepSpeed's builders. For a process of its own: the accelerator holds for a process.

    Args:
        accelerator: ``cuda`` or ``cpu``.
    """
    os.environ["DS_ACCELERATOR"] = accelerator
    from deepspeed.git_version_info import accelerator_name, installed_ops
    from deepspeed.ops.op_builder.all_ops import ALL_OPS

    prebuilt = {name for name, there in installed_ops.items() if there} if accelerator_name == accelerator else set()
    ops = (
        OpFound(
            name=name,
            built="with DeepSpeed" if name in prebuilt else _built_later(name),
            problem=_problem_of(builder),
        )
        for name, builder in ALL_OPS.items()
        if name != "deepspeed_not_implemented"
    )
    return OpsFound(
        accelerator=accelerator,
        ops=tuple(sorted(ops, key=lambda op: op.name)),
        mismatch=_mismatch() if accelerator == "cuda" else "",
    )


def extensions_directory() -> Path:
    """Where torch builds and finds extensions such as these ops; may not exist yet."""
    import torch
    from torch.utils.cpp_extension import get_default_build_root

    if named := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(named)
    # As torch's own `_get_build_directory`, which makes the directory, too.
    built_for = f"cu{torch.version.cuda.replace('.', '')}" if torch.version.cuda else "cpu"
    return Path(get_default_build_root()) / f"py{sys.version_info[0]}{sys.version_info[1]}{sys.abiflags}_{built_for}"


@contextlib.contextmanager
def sole_builder(name: str) -> Iterator[None]:
    """Keep other processes that ask here from building an op, for the time of a block.

    torch's own lock is a file that stays when the process that compiles is killed, as a rank is when another one of its
    gang fails; whoever builds next would wait for ever. Here the kernel frees the lock, and a file that no process
    has open any more is removed.

    Args:
        name: DeepSpeed's name of the op.
    """
    directory = extensions_directory()
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / f"{name}.raydsinfer.lock"):
        torchs = directory / name / "lock"
        if torchs.exists() and not _is_open(torchs):
            torchs.unlink(missing_ok=True)
        yield


def _is_open(path: Path) -> bool:
    """Whether a process of this user and machine has a file open."""
    wanted = str(path.resolve())
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if any(file.path == wanted for file in process.open_files()):
                return True
    return False


def _built_later(name: str) -> str:
    library = extensions_directory() / name / f"{name}.so"
    return str(library) if library.is_file() else ""


def _problem_of(builder: Any) -> str:
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            if builder.is_compatible(True):
                return ""
    except Exception as error:  # MissingCUDAException, ImportError, …
        return summary_of(error)
    lines = [_COLOUR.sub("", line).replace("[WARNING]", "").strip() for line in said.getvalue().splitlines()]
    return next((line for line in lines if line), "DeepSpeed's builder does not say why")


def _mismatch() -> str:
    from deepspeed.ops.op_builder.builder import assert_no_cuda_mismatch

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            assert_no_cuda_mismatch()
    except Exception as error:
        return summary_of(error)
    return ""
