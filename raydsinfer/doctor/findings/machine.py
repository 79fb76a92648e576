"""A whole machine."""

from __future__ import annotations

from dataclasses import dataclass

from raydsinfer.doctor.findings.building import ToolchainFound
from raydsinfer.doctor.findings.failed import ProbeFailed
from raydsinfer.doctor.findings.gpus import AllReduceFound, DriverFound, TorchFound
from raydsinfer.doctor.findings.network import HubFound, LocalRayFound, RayFound
from raydsinfer.doctor.findings.node import NodeFound
from raydsinfer.doctor.findings.software import PythonFound
from raydsinfer.engines.deepspeed_ops import OpsFound


@dataclass(frozen=True, kw_only=True)
class Machine:
    """All that was found."""

    python: PythonFound | ProbeFailed
    driver: DriverFound | ProbeFailed
    torch: TorchFound | ProbeFailed
    toolchain: ToolchainFound | ProbeFailed
    ops: OpsFound | ProbeFailed
    all_reduce: AllReduceFound | ProbeFailed
    node: NodeFound | ProbeFailed
    ray: RayFound | ProbeFailed
    local_ray: LocalRayFound | ProbeFailed
    hub: HubFound | ProbeFailed | None = None

    @property
    def has_gpus(self) -> bool:
        """Whether torch can use a GPU, or could if all were well."""
        found = [len(self.torch.gpus)] if isinstance(self.torch, TorchFound) else []
        if isinstance(self.driver, DriverFound):
            found += [len(self.driver.gpus), self.driver.num_devices]
        return any(found)
