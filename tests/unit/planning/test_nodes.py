from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from raydsinfer.doctor.findings.building import ToolchainFound
from raydsinfer.doctor.findings.failed import ProbeFailed
from raydsinfer.doctor.findings.gpus import DriverFound, DriverGpu
from raydsinfer.engines.deepspeed_ops import OpFound, OpsFound
from raydsinfer.errors import NodeDiedError
from raydsinfer.groups.placement import NodeResources
from raydsinfer.planning.gpus import Gpu, assumed_gpu
from raydsinfer.planning.look import Look
from raydsinfer.planning.nodes import NodeFacts, differing_versions, node_facts
from tests.unit.doctor.machines import GIB, NO_TOOL, TOOLS, directory, h100s
from tests.unit.planning.facts import node

H100 = DriverGpu(
    uuid="GPU-0", name="NVIDIA H100", total_bytes=80 * GIB, free_bytes=79 * GIB, capability=(9, 0)
)  # fmt: skip
MACHINE = h100s()
LOOK = Look(
    python=MACHINE.python,
    driver=DriverFound(num_devices=2, gpus=(H100, H100)),
    node=MACHINE.node,
    cache=directory(),
    torch=MACHINE.torch,
    toolchain=TOOLS,
    ops=OpsFound(accelerator="cuda", ops=(OpFound(name="transformer_inference"),)),
)


def facts(seen: Look | BaseException = LOOK, gpus: int = 2, assumed: Gpu | None = None) -> NodeFacts:
    resources = NodeResources(address="10.0.0.1", node_id="id", total={"GPU": float(gpus)}, free={"GPU": 1.0})
    return node_facts(resources, "10.0.0.1", seen, assumed)


def test_a_node_on_which_all_is_well() -> None:
    found = facts()
    kind = Gpu(name="NVIDIA H100", capability=(9, 0), total_bytes=80 * GIB, free_bytes=79 * GIB)
    assert (found.gpus, found.num_gpus, found.num_free_gpus) == ((kind, kind), 2, 1.0)
    assert (found.available_bytes, found.disk_free_bytes) == (480 * GIB, 500 * GIB)
    assert found.kernels_tried
    assert found.versions["ray"] == "2.60.0"
    said = (found.problem, found.kernels_problem, found.compiler_problem, found.torch_problem, found.software_problem)
    assert said == ("",) * 5


def test_gpus_that_ray_counts_and_no_driver_tells_of() -> None:
    assert facts(gpus=3).gpus[2] == Gpu()
    fake = replace(LOOK, driver=DriverFound(num_devices=0), torch=None, toolchain=None, ops=None)
    found = facts(fake, gpus=2)
    assert (found.gpus, found.kernels_tried, found.kernels_problem) == ((Gpu(), Gpu()), False, "")
    assert facts(gpus=1).gpus == (facts().gpus[0],)  # a node may give Ray fewer than it has


def test_what_the_user_says_goes_before_the_driver() -> None:
    t4 = assumed_gpu("T4", None)
    assert facts(assumed=t4).gpus == (t4, t4)


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"toolchain": replace(TOOLS, nvcc=NO_TOOL)}, "kernels_problem", "lacks a working nvcc"),
        ({"ops": ProbeFailed(reason="its process died of SIGSEGV")}, "kernels_problem", "died of SIGSEGV"),
        (
            {"ops": OpsFound(accelerator="cuda", ops=(OpFound(name="transformer_inference"),), mismatch="nvcc 12.1")},
            "kernels_problem",
            "nvcc 12.1",
        ),
        ({"toolchain": ToolchainFound(c=NO_TOOL, cxx=NO_TOOL, nvcc=NO_TOOL, ninja=NO_TOOL)}, "compiler_problem",
         "no C compiler"),
        ({"torch": replace(MACHINE.torch, cuda="")}, "torch_problem", "without CUDA"),  # type: ignore[type-var]
        ({"torch": replace(MACHINE.torch, archs=("sm_75",))}, "torch_problem", "capability 9.0"),  # type: ignore[type-var]
        ({"torch": ProbeFailed(reason="no answer within 120 s")}, "torch_problem", "no answer"),
        ({"model_problem": "/m: no such directory"}, "model_problem", "/m"),
    ],
)  # fmt: skip
def test_what_stands_against_it(changes: dict[str, Any], field: str, said: str) -> None:
    assert said in getattr(facts(replace(LOOK, **changes)), field)


def test_an_op_that_is_built_needs_no_compiler() -> None:
    built = OpsFound(accelerator="cuda", ops=(OpFound(name="transformer_inference", built="with DeepSpeed"),))
    assert facts(replace(LOOK, ops=built, toolchain=replace(TOOLS, nvcc=NO_TOOL))).kernels_problem == ""


def test_a_node_that_was_lost() -> None:
    found = facts(NodeDiedError(node="10.0.0.1", node_id="id", reason="the node was lost"))
    assert "the node was lost" in found.problem
    assert (found.num_gpus, found.available_bytes) == (2, None)


def test_versions_that_differ() -> None:
    nodes = [node("a"), node("b"), node("c", versions={"ray": "2.53.0"})]
    assert differing_versions(nodes) == {"ray": {"2.60.0": ["a", "b"], "2.53.0": ["c"]}}
    assert differing_versions(nodes[:2]) == {}
