"""What a node says of itself, through the doctor's probes. Runs on the nodes; touches no GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raydsinfer.checkpoints.sources.fetch import cache_directory, local_path
from raydsinfer.checkpoints.sources.listing import Listing, bytes_to_bring
from raydsinfer.doctor.findings.building import ToolchainFound
from raydsinfer.doctor.findings.failed import ProbeFailed
from raydsinfer.doctor.findings.gpus import DriverFound, TorchFound
from raydsinfer.doctor.findings.node import DirectoryFound, NodeFound
from raydsinfer.doctor.findings.software import PythonFound
from raydsinfer.doctor.probes.driver import find_driver
from raydsinfer.doctor.probes.node import find_node, look_at
from raydsinfer.doctor.probes.software import find_python
from raydsinfer.doctor.probes.toolchain import find_toolchain
from raydsinfer.doctor.probes.torch import find_torch
from raydsinfer.doctor.probing import Probing
from raydsinfer.engines.deepspeed_ops import OpsFound, find_ops
from raydsinfer.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Sought:
    """What is looked for.

    Args:
        model: Directory, URL or hub name.
        listing: Its files.
        revision: As in `EngineConfig`.
        hf_home: As in `EngineConfig`.
        timeout_s: Seconds for each probe.
    """

    model: str
    listing: Listing
    revision: str | None = None
    hf_home: str | None = None
    timeout_s: float = 120.0


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was found on a node; of torch, compilers and ops only where there is a GPU, None elsewhere.

    Args:
        python: Packages.
        driver: GPUs.
        node: Memory and disks.
        cache: The directory that models are fetched to.
        model_problem: Why the model cannot be read here; empty if it can.
        missing_bytes: Of the model, that have to be fetched.
        torch: What it was built for.
        toolchain: Compilers.
        ops: DeepSpeed's.
    """

    python: PythonFound | ProbeFailed
    driver: DriverFound | ProbeFailed
    node: NodeFound | ProbeFailed
    cache: DirectoryFound
    model_problem: str = ""
    missing_bytes: int = 0
    torch: TorchFound | ProbeFailed | None = None
    toolchain: ToolchainFound | ProbeFailed | None = None
    ops: OpsFound | ProbeFailed | None = None


def look(sought: Sought) -> Look:
    """Look at the node that this runs on."""
    problem, missing = "", 0
    try:
        missing = bytes_to_bring(sought.model, sought.listing, revision=sought.revision, hf_home=sought.hf_home)
        path = local_path(sought.model)
        if path is not None and not (path / "config.json").is_file():
            problem = f"{path} has no config.json here"
    except CheckpointError as error:
        problem = f"{error.path}: {error.reason}"
    with Probing() as probing:
        driver = probing.start(find_driver, timeout_s=sought.timeout_s)
        python = probing.start(find_python, timeout_s=sought.timeout_s)
        node = probing.start(find_node, timeout_s=sought.timeout_s)
        found = driver.result()
        gpus = isinstance(found, DriverFound) and bool(found.gpus)
        torch = probing.start(find_torch, timeout_s=sought.timeout_s) if gpus else None
        toolchain = probing.start(find_toolchain, timeout_s=sought.timeout_s) if gpus else None
        ops = probing.start(find_ops, "cuda", timeout_s=sought.timeout_s) if gpus else None
        return Look(
            python=python.result(),
            driver=found,
            node=node.result(),
            cache=look_at("models", _models_directory(sought.hf_home), "HF_HOME"),
            model_problem=problem,
            missing_bytes=missing,
            torch=None if torch is None else torch.result(),
            toolchain=None if toolchain is None else toolchain.result(),
            ops=None if ops is None else ops.result(),
        )


def _models_directory(hf_home: str | None) -> Path:
    return cache_directory(hf_home).parent
