"""What probes found, or would find, on machines other than the one that runs the tests."""

from __future__ import annotations

from dataclasses import replace

from raydsinfer.doctor.findings.building import ToolchainFound, ToolFound
from raydsinfer.doctor.findings.gpus import AllReduceFound, DriverFound, DriverGpu, TorchFound, TorchGpu
from raydsinfer.doctor.findings.machine import Machine
from raydsinfer.doctor.findings.network import LocalRayFound, RayFound
from raydsinfer.doctor.findings.node import DirectoryFound, LimitsFound, NodeFound
from raydsinfer.doctor.findings.software import PackageFound, PythonFound
from raydsinfer.doctor.judges.machine import judge
from raydsinfer.doctor.verdicts import Verdict
from raydsinfer.engines.deepspeed_ops import OpFound, OpsFound

GIB = 2**30
ARCHS = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")  # as torch for CUDA 13 lists them
NO_TOOL = ToolFound(path="")
TOOLS = ToolchainFound(
    c=ToolFound(path="/usr/bin/gcc", version="gcc 12.2.0"),
    cxx=ToolFound(path="/usr/bin/c++", version="c++ 12.2.0"),
    nvcc=ToolFound(path="/usr/local/cuda/bin/nvcc", version="13.0"),
    ninja=ToolFound(path="/usr/bin/ninja", version="1.11.1"),
)


def h100s() -> Machine:
    """Two H100s, all well, nothing compiled yet."""
    uuids = ("GPU-0", "GPU-1")
    name = "NVIDIA H100 80GB HBM3"
    return Machine(
        python=PythonFound(
            version="3.12.3",
            wanted="<3.14,>=3.10",
            packages=(
                PackageFound(name="torch", version="2.11.0+cu130", wanted=">=2.11", tested="2.13.0"),
                PackageFound(name="ray", version="2.60.0", wanted=">=2.53", tested="2.60.0"),
            ),
        ),
        driver=DriverFound(
            num_devices=2,
            version="580.65.06",
            cuda=(13, 0),
            gpus=tuple(DriverGpu(uuid=uuid, name=name, total_bytes=80 * GIB, free_bytes=79 * GIB) for uuid in uuids),
        ),
        torch=TorchFound(
            version="2.11.0+cu130",
            cuda="13.0",
            archs=ARCHS,
            nccl="2.28.9",
            gpus=tuple(
                TorchGpu(index=index, uuid=uuid, name=name, capability=(9, 0), total_bytes=79 * GIB)
                for index, uuid in enumerate(uuids)
            ),
        ),
        toolchain=TOOLS,
        ops=OpsFound(accelerator="cuda", ops=(OpFound(name="transformer_inference"), OpFound(name="quantizer"))),
        all_reduce=AllReduceFound(backend="nccl", num_ranks=2),
        node=node(),
        ray=RayFound(version="2.60.0", python="3.12"),
        local_ray=LocalRayFound(seconds=2.5),
    )


def node(**changes: object) -> NodeFound:
    """A large host."""
    found = NodeFound(
        memory_bytes=512 * GIB,
        available_bytes=480 * GIB,
        shm_bytes=256 * GIB,
        shm_free_bytes=255 * GIB,
        limits=LimitsFound(open_files=1_048_576, processes=None, locked_bytes=None),
        directories=(directory(),),
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def directory(**changes: object) -> DirectoryFound:
    """A disk with room."""
    found = DirectoryFound(
        role="models", path="/data/hf", setting="HF_HOME", total_bytes=900 * GIB, free_bytes=500 * GIB
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def one_gpu(name: str, capability: tuple[int, int], total_bytes: int) -> Machine:
    """The same machine with one other GPU."""
    gpu = TorchGpu(index=0, uuid="GPU-0", name=name, capability=capability, total_bytes=total_bytes)
    told = DriverGpu(uuid="GPU-0", name=name, total_bytes=total_bytes, free_bytes=total_bytes)
    machine = h100s()
    assert isinstance(machine.driver, DriverFound)
    assert isinstance(machine.torch, TorchFound)
    return replace(
        machine,
        driver=replace(machine.driver, num_devices=1, gpus=(told,)),
        torch=replace(machine.torch, gpus=(gpu,)),
        all_reduce=AllReduceFound(backend="gloo", num_ranks=2),
    )


def laptop() -> Machine:
    """No GPU, a CPU build of torch, no compiler at all."""
    return replace(
        h100s(),
        driver=DriverFound(num_devices=0, problem="libcuda.so.1: cannot open shared object file"),
        torch=TorchFound(version="2.13.0+cpu"),
        toolchain=ToolchainFound(c=NO_TOOL, cxx=NO_TOOL, nvcc=NO_TOOL, ninja=NO_TOOL),
        ops=OpsFound(accelerator="cpu", ops=(OpFound(name="cpu_adam"),)),
        all_reduce=AllReduceFound(backend="gloo", num_ranks=2),
    )


def verdict(machine: Machine, subject: str) -> Verdict:
    """The only one about a subject."""
    (found,) = [verdict for verdict in judge(machine) if verdict.subject == subject]
    return found
