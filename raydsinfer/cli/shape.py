"""How many gangs, of how many ranks, on what: from flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from raydsinfer.errors import InvalidSettingError

if TYPE_CHECKING:
    from ray.train import ScalingConfig


@dataclass(frozen=True, kw_only=True)
class GangShape:
    """Ranks and gangs.

    Args:
        num_gangs: Gangs from the start.
        max_gangs: Gangs at most.
        num_ranks: Ranks of each, the tensor parallel size.
        use_gpu: Whether a rank is a GPU, or a CPU.
        placement_strategy: Ray's word for where bundles go.
        accelerator_type: Ray's name of the GPU that is wanted; None for any.
    """

    num_gangs: int = 1
    max_gangs: int = 1
    num_ranks: int = 1
    use_gpu: bool = True
    placement_strategy: str = "PACK"
    accelerator_type: str | None = None

    @property
    def num_cpus(self) -> int:
        """CPUs that all of it takes, one for reading included."""
        return self.num_gangs * self.num_ranks + 1

    def scaling_config(self) -> ScalingConfig:
        """Ray's form of one gang."""
        from ray.train import ScalingConfig

        return ScalingConfig(
            num_workers=self.num_ranks,
            use_gpu=self.use_gpu,
            placement_strategy=self.placement_strategy,
            accelerator_type=self.accelerator_type,
        )

    def __str__(self) -> str:
        gangs = f"{self.num_gangs}" if self.num_gangs == self.max_gangs else f"{self.num_gangs} to {self.max_gangs}"
        noun = "gang" if self.max_gangs == 1 else "gangs"
        device = "GPU" if self.use_gpu else "CPU"
        return f"{gangs} {noun} of {self.num_ranks} {device} rank{'s' if self.num_ranks > 1 else ''}"


def gang_shape(
    *,
    num_worker_groups: int,
    max_worker_groups: int | None,
    num_gpus: int | None,
    num_cpu_ranks: int | None,
    placement_strategy: str = "PACK",
    accelerator_type: str | None = None,
) -> GangShape:
    """The shape that the flags ask for: one GPU where nothing is said.

    Raises:
        InvalidSettingError: Both kinds of ranks were asked for, or a number is below 1.
    """
    if num_gpus is not None and num_cpu_ranks is not None:
        raise InvalidSettingError(
            name="--num-cpu-ranks-per-worker-group",
            value=num_cpu_ranks,
            expected="to stand without --num-gpus-per-worker-group",
            hint="The ranks of a gang are GPUs or CPUs.",
        )
    num_ranks = num_cpu_ranks if num_cpu_ranks is not None else (num_gpus if num_gpus is not None else 1)
    kind = "gpus" if num_cpu_ranks is None else "cpu-ranks"
    max_gangs = num_worker_groups if max_worker_groups is None else max_worker_groups
    strategies = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
    checks = [
        ("--num-worker-groups", num_worker_groups, num_worker_groups >= 1, "1 or more"),
        ("--max-worker-groups", max_gangs, max_gangs >= num_worker_groups, "at least --num-worker-groups"),
        (f"--num-{kind}-per-worker-group", num_ranks, num_ranks >= 1, "1 or more"),
        (
            "--placement-strategy",
            placement_strategy,
            placement_strategy in strategies,
            f"one of {', '.join(strategies)}",
        ),
    ]
    for name, value, fine, expected in checks:
        if not fine:
            raise InvalidSettingError(name=name, value=value, expected=expected)
    return GangShape(
        num_gangs=num_worker_groups,
        max_gangs=max_gangs,
        num_ranks=num_ranks,
        use_gpu=num_cpu_ranks is None,
        placement_strategy=placement_strategy,
        accelerator_type=accelerator_type,
    )
