import torch

from raydsinfer.doctor.findings.gpus import TorchFound
from raydsinfer.doctor.probes.torch import find_torch
from raydsinfer.doctor.probing import Probing


def test_the_torch_that_is_here() -> None:
    with Probing() as probing:
        found = probing.start(find_torch, timeout_s=120).result()
    assert isinstance(found, TorchFound)
    assert (found.version, found.cuda) == (torch.__version__, torch.version.cuda or "")
    assert len(found.gpus) == torch.cuda.device_count()
    assert [gpu.problem for gpu in found.gpus] == [""] * len(found.gpus)
