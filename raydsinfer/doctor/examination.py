"""Runs the probes, those side by side that do not disturb each other."""

from __future__ import annotations

from collections.abc import Callable

from raydsinfer.doctor.findings.gpus import TorchFound
from raydsinfer.doctor.findings.machine import Machine
from raydsinfer.doctor.probes.all_reduce import find_all_reduce
from raydsinfer.doctor.probes.driver import find_driver
from raydsinfer.doctor.probes.hub import find_hub
from raydsinfer.doctor.probes.node import find_node
from raydsinfer.doctor.probes.ray import find_ray, start_local_ray
from raydsinfer.doctor.probes.software import find_python
from raydsinfer.doctor.probes.toolchain import find_toolchain
from raydsinfer.doctor.probes.torch import find_torch
from raydsinfer.doctor.probing import Probing
from raydsinfer.engines.deepspeed_ops import find_ops

_HUB_S = 15.0  # for its first answer


def examine(
    *, online: bool = False, timeout_s: float = 120, on_stage: Callable[[str], None] = lambda stage: None
) -> Machine:
    """Look at this machine.

    Args:
        online: Whether the hub is asked, too.
        timeout_s: Seconds for each probe. On a cold disk importing torch alone may take a minute.
        on_stage: Told what is looked at.
    """
    with Probing() as probing:
        # Alone: whoever uses a GPU would be told of as its user, and so would the other probes.
        on_stage("the driver")
        driver = probing.start(find_driver, timeout_s=timeout_s).result()
        on_stage("torch, compilers, disks and Ray")
        torch = probing.start(find_torch, timeout_s=timeout_s)
        python = probing.start(find_python, timeout_s=timeout_s)
        node = probing.start(find_node, timeout_s=timeout_s)
        toolchain = probing.start(find_toolchain, timeout_s=timeout_s)
        ray = probing.start(find_ray, timeout_s=timeout_s)
        # Started once those that were there are counted.
        found_torch, found_ray = torch.result(), ray.result()
        on_stage("DeepSpeed's ops, a sum over ranks, and a Ray of its own")
        num_gpus = len(found_torch.gpus) if isinstance(found_torch, TorchFound) else 0
        # The inner limit is shorter, so that ranks can say what they wait for.
        all_reduce = probing.start(find_all_reduce, num_gpus, 0.8 * timeout_s, timeout_s=timeout_s)
        ops = probing.start(find_ops, "cuda" if num_gpus else "cpu", timeout_s=timeout_s)
        local_ray = probing.start(start_local_ray, timeout_s=timeout_s)
        hub = probing.start(find_hub, _HUB_S, timeout_s=timeout_s) if online else None
        return Machine(
            python=python.result(),
            driver=driver,
            torch=found_torch,
            toolchain=toolchain.result(),
            ops=ops.result(),
            all_reduce=all_reduce.result(),
            node=node.result(),
            ray=found_ray,
            local_ray=local_ray.result(),
            hub=None if hub is None else hub.result(),
        )
