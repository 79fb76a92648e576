from dataclasses import replace

import pytest

from raydsinfer.doctor.findings.gpus import DriverFound, TorchFound
from tests.unit.doctor.machines import h100s, laptop, verdict

NO_LIBRARY = "libcuda.so.1: cannot open shared object file"
CUDA_BUILD = TorchFound(version="2.13.0+cu130", cuda="13.0", problem="CUDA driver version is insufficient")


def test_gpus_without_a_driver() -> None:
    """A container that was started without its GPUs looks like this, too."""
    machine = replace(h100s(), driver=DriverFound(num_devices=2, problem=NO_LIBRARY), torch=CUDA_BUILD)
    driver = verdict(machine, "driver")
    assert driver.level == "red"
    assert f"2 NVIDIA GPUs, but no driver: {NO_LIBRARY}" in driver.found
    assert "--gpus all" in driver.cure
    assert "finds no GPU: CUDA driver version is insufficient" in verdict(machine, "torch").found


@pytest.mark.parametrize(
    ("problem", "cure"),
    [
        ("cuInit: no CUDA-capable device is detected (CUDA error 100)", "--gpus all"),
        ("Failed to initialize NVML: Driver/library version mismatch", "restart"),
    ],
)
def test_a_driver_that_does_not_start(problem: str, cure: str) -> None:
    machine = replace(h100s(), driver=DriverFound(num_devices=1, cuda=(13, 0), problem=problem), torch=CUDA_BUILD)
    driver = verdict(machine, "driver")
    assert (driver.level, problem in driver.found, cure in driver.cure) == ("red", True, True)


def test_a_driver_that_is_too_old_for_torch() -> None:
    machine = replace(h100s(), driver=DriverFound(num_devices=1, version="550.54", cuda=(12, 4)), torch=CUDA_BUILD)
    driver = verdict(machine, "driver")
    assert (driver.level, "torch for CUDA 12" in driver.cure) == ("red", True)
    older = replace(machine, torch=replace(CUDA_BUILD, cuda="12.8"))  # minor versions go together
    assert verdict(older, "driver").level == "green"


def test_a_cpu_build_of_torch_beside_gpus() -> None:
    torch = verdict(replace(h100s(), torch=TorchFound(version="2.13.0+cpu")), "torch")
    assert (torch.level, "CPU build" in torch.found, "CUDA" in torch.cure) == ("red", True, True)


def test_gpus_that_a_variable_hides() -> None:
    machine = h100s()
    assert isinstance(machine.torch, TorchFound)
    none = verdict(replace(machine, torch=replace(CUDA_BUILD, visible="")), "torch")
    assert (none.level, none.cure) == ("red", "Unset that variable.")
    one = replace(machine, torch=replace(machine.torch, gpus=machine.torch.gpus[:1], visible="0"))
    assert verdict(one, "torch").level == "yellow"
    assert "sees 1 of 2 GPUs: CUDA_VISIBLE_DEVICES=0" in verdict(one, "torch").found


def test_rocm_was_never_tested() -> None:
    machine = replace(laptop(), torch=TorchFound(version="2.13.0+rocm7", hip="7.0"))
    assert verdict(machine, "torch").level == "yellow"


def test_a_gpu_that_only_torch_knows() -> None:
    """No PCI bus to see, no nvidia-smi."""
    driver = verdict(replace(h100s(), driver=DriverFound(num_devices=0, cuda=(13, 0))), "driver")
    assert (driver.level, "2 NVIDIA GPUs" in driver.found) == ("green", True)
