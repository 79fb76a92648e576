"""NVIDIA's driver: what it says itself, without torch."""

from __future__ import annotations

import contextlib
import csv
import ctypes
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from raydsinfer.doctor.findings.gpus import DriverFound, DriverGpu, GpuUser
from raydsinfer.doctor.probes.command import ran

_SMI_TIMEOUT_S = 30  # without persistence mode it first loads the driver
_MIB = 2**20


def find_driver() -> DriverFound:
    """Driver, its CUDA, its GPUs and who is on them. For a process of its own: a broken driver can hang."""
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # the driver knows more GPUs than a process may be given
    devices = num_nvidia_devices()
    problem, cuda = _cuda()
    if not shutil.which("nvidia-smi"):
        return DriverFound(num_devices=devices, cuda=cuda, problem=problem)
    fields = "driver_version,uuid,name,memory.total,memory.free,mig.mode.current"
    gpus = ran(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"], timeout_s=_SMI_TIMEOUT_S)
    if gpus.problem:
        return DriverFound(num_devices=devices, cuda=cuda, problem=gpus.problem)
    fields = "gpu_uuid,pid,process_name,used_gpu_memory"
    apps = ran(
        ["nvidia-smi", f"--query-compute-apps={fields}", "--format=csv,noheader,nounits"], timeout_s=_SMI_TIMEOUT_S
    )
    # Apart: an older nvidia-smi does not know this field, and would then tell nothing at all.
    caps = ran(["nvidia-smi", "--query-gpu=uuid,compute_cap", "--format=csv,noheader"], timeout_s=_SMI_TIMEOUT_S)
    version, found = parsed_gpus(*("" if asked.problem else asked.output for asked in (gpus, apps, caps)))
    return DriverFound(num_devices=max(devices, len(found)), version=version, cuda=cuda, problem=problem, gpus=found)


def num_nvidia_devices(devices: Path = Path("/sys/bus/pci/devices")) -> int:
    """NVIDIA GPUs on the PCI bus, whether or not a driver knows them.

    Args:
        devices: Where the kernel lists them.
    """
    return sum(
        _read(device / "vendor") == "0x10de" and _read(device / "class").startswith("0x03")  # displays, also without
        for device in (devices.iterdir() if devices.is_dir() else ())
    )


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _cuda() -> tuple[str, tuple[int, int] | None]:
    """Why CUDA does not start, and the newest version that the driver runs."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return str(error), None
    number, text = ctypes.c_int(), ctypes.c_char_p()
    code = library.cuInit(0)
    if code:
        library.cuGetErrorString(code, ctypes.byref(text))
    problem = f"cuInit: {(text.value or b'').decode()} (CUDA error {code})" if code else ""
    if library.cuDriverGetVersion(ctypes.byref(number)):
        return problem, None
    return problem, (number.value // 1000, number.value % 1000 // 10)


def parsed_gpus(gpus: str, apps: str, capabilities: str = "") -> tuple[str, tuple[DriverGpu, ...]]:
    """The driver's version and its GPUs.

    Args:
        gpus: Lines of nvidia-smi: driver_version, uuid, name, memory.total, memory.free, mig.mode.current.
        apps: Lines of nvidia-smi: gpu_uuid, pid, process_name, used_gpu_memory.
        capabilities: Lines of nvidia-smi: uuid, compute_cap.
    """
    told = {uuid: _capability(text) for uuid, text in _rows(capabilities, 2)}
    users = defaultdict(list)
    for uuid, pid, name, used in _rows(apps, 4):
        with contextlib.suppress(ValueError):  # a pid that it does not tell
            used_bytes = int(used) * _MIB if used.isdigit() else None
            users[uuid].append(GpuUser(pid=int(pid), name=name, used_bytes=used_bytes))
    rows = list(_rows(gpus, 6))
    found = (
        DriverGpu(
            uuid=uuid,
            name=name,
            total_bytes=int(total) * _MIB if total.isdigit() else 0,
            free_bytes=int(free) * _MIB if free.isdigit() else 0,
            mig=mig == "Enabled",
            capability=told.get(uuid),
            users=tuple(users[uuid]),
        )
        for _, uuid, name, total, free, mig in rows
    )
    return rows[0][0] if rows else "", tuple(found)


def _capability(text: str) -> tuple[int, int] | None:
    major, _, minor = text.strip().partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def _rows(lines: str, width: int) -> Iterator[list[str]]:
    return (row for row in csv.reader(lines.splitlines(), skipinitialspace=True) if len(row) == width)
