from pathlib import Path

import pytest

from raydsinfer.doctor.findings.failed import ProbeFailed
from raydsinfer.doctor.findings.gpus import DriverFound, DriverGpu, GpuUser
from raydsinfer.doctor.probes.driver import find_driver, num_nvidia_devices, parsed_gpus
from raydsinfer.doctor.probing import Probing

MIB = 2**20
GPUS = """\
580.65.06, GPU-aa, NVIDIA H100 80GB HBM3, 81559, 81079, Disabled
580.65.06, GPU-bb, NVIDIA H100 80GB HBM3, 81559, 1024, Enabled
580.65.06, GPU-cc, Tesla T4, 15360, [N/A], [N/A]
"""
CAPABILITIES = """\
GPU-aa, 9.0
GPU-bb, [N/A]
"""
APPS = """\
GPU-bb, 4242, /usr/bin/python3, 70000
GPU-bb, 4243, [Not Found], [N/A]
GPU-bb, [N/A], ghost, 1
No running processes found
"""


def test_what_nvidia_smi_lists() -> None:
    version, (first, second, third) = parsed_gpus(GPUS, APPS)
    assert version == "580.65.06"
    name = "NVIDIA H100 80GB HBM3"
    assert first == DriverGpu(uuid="GPU-aa", name=name, total_bytes=81559 * MIB, free_bytes=81079 * MIB)
    assert second.mig
    assert second.users == (
        GpuUser(pid=4242, name="/usr/bin/python3", used_bytes=70000 * MIB),
        GpuUser(pid=4243, name="[Not Found]", used_bytes=None),
    )
    assert (third.total_bytes, third.free_bytes, third.mig) == (15360 * MIB, 0, False)
    assert first.capability is None
    told = parsed_gpus(GPUS, APPS, CAPABILITIES)[1]
    assert [gpu.capability for gpu in told] == [(9, 0), None, None]
    assert parsed_gpus("No devices were found", "") == ("", ())


def test_devices_on_the_bus(tmp_path: Path) -> None:
    for slot, (vendor, kind) in enumerate((("0x10de", "0x030200"), ("0x10de", "0x040300"), ("0x1002", "0x030000"))):
        device = tmp_path / str(slot)
        device.mkdir()
        (device / "vendor").write_text(vendor + "\n")
        (device / "class").write_text(kind + "\n")
    (tmp_path / "empty").mkdir()
    assert num_nvidia_devices(tmp_path) == 1
    assert num_nvidia_devices(tmp_path / "not there") == 0


def test_this_machine() -> None:
    found = asked()
    assert found.cuda is not None or found.problem


def test_the_questions_to_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in on the PATH answers what it was asked for, by name."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\n"
        'case "$1 $2" in\n'
        '"--query-gpu=driver_version,uuid,name,memory.total,memory.free,mig.mode.current '
        '--format=csv,noheader,nounits")\n'
        '  echo "580.65.06, GPU-aa, Tesla T4, 15360, 9000, [N/A]";;\n'
        '"--query-compute-apps=gpu_uuid,pid,process_name,used_gpu_memory --format=csv,noheader,nounits")\n'
        '  echo "GPU-aa, 77, python, 6000";;\n'
        '"--query-gpu=uuid,compute_cap --format=csv,noheader") echo "GPU-aa, 7.5";;\n'
        '*) echo "Field is not a valid field to query."; exit 2;;\n'
        "esac\n"
    )
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = asked()
    assert (found.version, found.num_devices >= 1) == ("580.65.06", True)
    (gpu,) = found.gpus
    assert (gpu.name, gpu.free_bytes, gpu.users[0].pid) == ("Tesla T4", 9000 * MIB, 77)
    assert gpu.capability == (7, 5)
    smi.write_text(smi.read_text().replace("compute_cap", "what_is_new"))  # an older one, which does not know it
    assert [(gpu.name, gpu.capability) for gpu in asked().gpus] == [("Tesla T4", None)]
    smi.write_text("#!/bin/sh\necho Failed to initialize NVML: Driver/library version mismatch\nexit 18\n")
    assert asked().problem == "Failed to initialize NVML: Driver/library version mismatch"


def asked() -> DriverFound:
    with Probing() as probing:
        found = probing.start(find_driver, timeout_s=60).result()
    assert not isinstance(found, ProbeFailed)
    return found
