"""Nodes as a plan sees them: what Ray counts, and what a look at them showed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from raydsinfer.doctor.findings.building import ToolchainFound
from raydsinfer.doctor.findings.failed import ProbeFailed
from raydsinfer.doctor.findings.gpus import DriverFound, DriverGpu, TorchFound
from raydsinfer.doctor.findings.node import NodeFound
from raydsinfer.doctor.findings.software import PythonFound
from raydsinfer.doctor.judges.building import kernels_problem
from raydsinfer.doctor.judges.gpus import runs
from raydsinfer.doctor.judges.software import judge_python
from raydsinfer.engines.deepspeed_ops import OpsFound
from raydsinfer.groups.placement import NodeResources
from raydsinfer.planning.gpus import Gpu, dotted, known_capability
from raydsinfer.planning.look import Look

_VERSIONS = ("torch", "transformers", "deepspeed", "ray")


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """One node.

    Args:
        node_id: Ray's id of it.
        name: For people.
        num_gpus: That Ray counts there.
        num_free_gpus: Of these, that nobody holds.
        gpus: One for each that Ray counts.
        available_bytes: Of host memory; None if nobody told.
        disk_path: Where models are fetched to.
        disk_free_bytes: There; None if nobody told.
        disk_problem: Why nothing can be written there.
        missing_bytes: Of the model, that have to be fetched.
        model_problem: Why the model cannot be read here.
        kernels_tried: Whether anybody looked for the op of kernel injection and what builds it.
        kernels_problem: Why the op of kernel injection can be neither loaded nor built.
        compiler_problem: Why nothing is compiled for continuous batching.
        torch_problem: Why torch cannot use these GPUs.
        versions: Package → version.
        software_problem: Packages that this library cannot work with.
        problem: Why the node could not be looked at; then most of the rest is not known.
    """

    node_id: str
    name: str
    num_gpus: int = 0
    num_free_gpus: float = 0
    gpus: tuple[Gpu, ...] = ()
    available_bytes: int | None = None
    disk_path: str = ""
    disk_free_bytes: int | None = None
    disk_problem: str = ""
    missing_bytes: int = 0
    model_problem: str = ""
    kernels_tried: bool = False
    kernels_problem: str = ""
    compiler_problem: str = ""
    torch_problem: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    software_problem: str = ""
    problem: str = ""


def node_facts(resources: NodeResources, name: str, seen: Look | BaseException, assumed: Gpu | None) -> NodeFacts:
    """What is known of a node.

    Args:
        resources: What Ray counts.
        name: For people.
        seen: What the look at it brought, or why there was none.
        assumed: The GPU that the user told of; it goes before what a driver tells.
    """
    num_gpus = int(resources.total.get("GPU", 0))
    free = resources.free.get("GPU", 0.0)
    known = (assumed or Gpu(),) * num_gpus
    if not isinstance(seen, Look):
        return NodeFacts(
            node_id=resources.node_id,
            name=name,
            num_gpus=num_gpus,
            num_free_gpus=free,
            gpus=known,
            problem=str(seen) or type(seen).__name__,
        )
    told = seen.driver.gpus if isinstance(seen.driver, DriverFound) else ()
    gpus = known if assumed is not None else tuple(map(_gpu, told[:num_gpus])) + known[len(told) :]
    python = seen.python if isinstance(seen.python, PythonFound) else None
    red = [verdict for verdict in judge_python(python) if verdict.level == "red"] if python else []
    host = seen.node if isinstance(seen.node, NodeFound) else None
    return NodeFacts(
        node_id=resources.node_id,
        name=name,
        num_gpus=num_gpus,
        num_free_gpus=free,
        gpus=gpus,
        available_bytes=host.available_bytes if host else None,
        disk_path=seen.cache.path,
        disk_free_bytes=seen.cache.free_bytes,
        disk_problem=seen.cache.problem,
        missing_bytes=seen.missing_bytes,
        model_problem=seen.model_problem,
        kernels_tried=seen.ops is not None,
        kernels_problem=_kernels_problem(seen),
        compiler_problem=_compiler_problem(seen),
        torch_problem=_torch_problem(seen, [gpu for gpu in gpus if not gpu.assumed]),
        versions={package.name: package.version for package in python.packages if package.name in _VERSIONS}
        if python
        else {},
        software_problem="; ".join(f"{verdict.found} ({verdict.cure})" for verdict in red),
    )


def _gpu(told: DriverGpu) -> Gpu:
    return Gpu(
        name=told.name,
        capability=told.capability or known_capability(told.name),
        total_bytes=told.total_bytes or None,
        free_bytes=told.free_bytes if told.total_bytes else None,
    )


def _kernels_problem(seen: Look) -> str:
    if isinstance(seen.ops, ProbeFailed):
        return f"DeepSpeed cannot be used: {seen.ops.reason}"
    if isinstance(seen.ops, OpsFound) and seen.toolchain is not None:
        return kernels_problem(seen.ops, seen.toolchain)
    return ""


def _compiler_problem(seen: Look) -> str:
    if not isinstance(seen.toolchain, ToolchainFound):
        return ""
    compiler = seen.toolchain.c
    return (compiler.problem or "there is no C compiler") if compiler.problem or not compiler.path else ""


def _torch_problem(seen: Look, gpus: Sequence[Gpu]) -> str:
    torch = seen.torch
    if isinstance(torch, ProbeFailed):
        return f"torch cannot be used: {torch.reason}"
    if not isinstance(torch, TorchFound) or not gpus:
        return ""
    if not torch.cuda:
        return f"torch {torch.version} is built without CUDA"
    old = sorted({gpu.capability for gpu in gpus if gpu.capability and not runs(gpu.capability, torch.archs)})
    if old:
        return f"torch {torch.version} has no kernels for compute capability {', '.join(map(dotted, old))}"
    return ""


def differing_versions(nodes: Sequence[NodeFacts]) -> dict[str, dict[str, list[str]]]:
    """Packages that are not the same everywhere: name → version → nodes."""
    found: dict[str, dict[str, list[str]]] = {}
    for node in nodes:
        for package, version in node.versions.items():
            found.setdefault(package, {}).setdefault(version, []).append(node.name)
    return {package: versions for package, versions in found.items() if len(versions) > 1}
