from dataclasses import replace

import pytest

from raydsinfer.doctor.findings.gpus import DriverFound, GpuUser, TorchFound
from raydsinfer.doctor.findings.machine import Machine
from raydsinfer.doctor.judges.gpus import runs
from tests.unit.doctor.machines import ARCHS, GIB, h100s, one_gpu, verdict


def test_a_t4_works_but_lacks_what_came_with_ampere() -> None:
    gpu = verdict(one_gpu("Tesla T4", (7, 5), 15 * GIB), "GPU 0")
    assert gpu.level == "yellow"
    assert gpu.found.startswith("Tesla T4, compute capability 7.5; no bfloat16, FlashAttention")
    assert "torch.compile" not in gpu.found
    assert "dtype='float16'" in gpu.cure


def test_a_v100_under_a_torch_that_has_no_kernels_for_it() -> None:
    gpu = verdict(one_gpu("Tesla V100-SXM2-16GB", (7, 0), 16 * GIB), "GPU 0")
    assert (gpu.level, "kernels for sm_75" in gpu.found, "torch for another CUDA" in gpu.cure) == ("red", True, True)


def test_before_volta_nothing_is_compiled() -> None:
    machine = one_gpu("Tesla P100", (6, 0), 16 * GIB)
    assert isinstance(machine.torch, TorchFound)
    gpu = verdict(replace(machine, torch=replace(machine.torch, archs=("sm_60", "sm_70"))), "GPU 0")
    assert (gpu.level, "no torch.compile" in gpu.found) == ("yellow", True)


@pytest.mark.parametrize(
    ("capability", "archs", "expected"),
    [
        ((9, 0), ARCHS, True),
        ((8, 9), ARCHS, True),  # by the binary for 8.6
        ((7, 0), ARCHS, False),
        ((10, 3), ARCHS, True),
        ((11, 0), ARCHS, False),
        ((13, 0), ARCHS, True),  # by PTX
        ((9, 0), ("sm_90a",), True),
        ((9, 1), ("sm_90a",), False),
        ((5, 2), (), True),  # nothing is known
    ],
)
def test_which_gpus_kernels_run_on(capability: tuple[int, int], archs: tuple[str, ...], expected: bool) -> None:
    assert runs(capability, archs) is expected


def with_gpu(**changes: object) -> Machine:
    machine = h100s()
    assert isinstance(machine.driver, DriverFound)
    first, second = machine.driver.gpus
    return replace(machine, driver=replace(machine.driver, gpus=(replace(first, **changes), second)))  # type: ignore[arg-type]


def test_a_gpu_that_others_use() -> None:
    users = (GpuUser(pid=77, name="python", used_bytes=30 * GIB), GpuUser(pid=78, name="[Not Found]", used_bytes=None))
    machine = with_gpu(free_bytes=50 * GIB, users=users)
    gpu = verdict(machine, "GPU 0")
    assert (gpu.level, "gpu_memory_utilization" in gpu.cure) == ("yellow", True)
    assert "50.0 of 80.0 GiB free; in use by process 77 (python, 30.0 GiB), process 78 ([Not Found])" in gpu.found
    assert verdict(machine, "GPU 1").level == "green"
    unseen = verdict(with_gpu(free_bytes=50 * GIB), "GPU 0")
    assert "processes that are not seen from here" in unseen.found


def test_a_user_that_leaves_enough() -> None:
    gpu = verdict(with_gpu(users=(GpuUser(pid=77, name="Xorg", used_bytes=None),)), "GPU 0")
    assert (gpu.level, "1 process on it" in gpu.found) == ("green", True)


def test_slices() -> None:
    assert verdict(with_gpu(mig=True), "MIG").level == "yellow"


def test_a_gpu_that_does_not_compute() -> None:
    machine = h100s()
    assert isinstance(machine.torch, TorchFound)
    first, second = machine.torch.gpus
    broken = replace(first, problem="AcceleratorError: CUDA error: uncorrectable ECC error encountered")
    gpu = verdict(replace(machine, torch=replace(machine.torch, gpus=(broken, second))), "GPU 0")
    assert (gpu.level, "ECC" in gpu.found, bool(gpu.cure)) == ("red", True, True)


def test_a_gpu_of_which_the_driver_says_nothing() -> None:
    gpu = verdict(replace(h100s(), driver=DriverFound(num_devices=2, cuda=(13, 0), gpus=())), "GPU 0, 1")
    assert (gpu.level, gpu.found.endswith("79.0 GiB")) == ("green", True)
