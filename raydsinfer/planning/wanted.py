"""What a plan is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from raydsinfer.config import EngineConfig
from raydsinfer.groups.placement import GangRequest, gang_request
from raydsinfer.planning.gpus import Gpu

if TYPE_CHECKING:
    from ray.train import ScalingConfig


def ranks_flag(*, use_gpu: bool) -> str:
    """The flag of the command line that says how many ranks a gang has."""
    return "--num-gpus-per-worker-group" if use_gpu else "--cpu-ranks"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A model and the gangs that would run it.

    Args:
        model: Directory, URL or hub name.
        config: Inference settings.
        num_ranks: Of each gang; None: the fewest that the model fits on.
        use_gpu: Whether a rank is a GPU.
        num_gangs: Side by side; None: as many as GPUs are free for, on CPUs one.
        placement_strategy: Ray's word for where bundles go.
        accelerator_type: Ray's name of the GPU that is wanted; None for any.
        assumed: A GPU to reckon with instead of what drivers tell.
    """

    model: str
    config: EngineConfig
    num_ranks: int | None = None
    use_gpu: bool = True
    num_gangs: int | None = None
    placement_strategy: str = "PACK"
    accelerator_type: str | None = None
    assumed: Gpu | None = None

    def request(self, num_ranks: int) -> GangRequest:
        """What a gang of so many ranks asks of the cluster."""
        return gang_request("gang", self.scaling_config(num_ranks))

    def scaling_config(self, num_ranks: int) -> ScalingConfig:
        """Ray's form of one gang."""
        from ray.train import ScalingConfig

        return ScalingConfig(
            num_workers=num_ranks,
            use_gpu=self.use_gpu,
            placement_strategy=self.placement_strategy,
            accelerator_type=self.accelerator_type,
        )
