"""What the ranks of a gang have to find out together, so that none goes on alone."""

from __future__ import annotations

import torch

from raydsinfer.engines.base import RankContext


class Agreement:
    """Small talks between ranks; all of them must make the same calls. One rank agrees with itself.

    Args:
        context: Where this rank stands; its process group exists.
    """

    def __init__(self, context: RankContext) -> None:
        self._device, self._is_alone = context.device, context.world_size == 1

    @property
    def is_alone(self) -> bool:
        """Whether there is only one rank."""
        return self._is_alone

    def largest(self, number: float) -> float:
        """The largest of the ranks' numbers."""
        if self._is_alone:
            return number
        shared = torch.tensor(float(number), dtype=torch.float64, device=self._device)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
        return float(shared)

    def take_firsts(self, tensor: torch.Tensor) -> None:
        """Overwrite a tensor with rank 0's."""
        if not self._is_alone:
            torch.distributed.broadcast(tensor, src=0)
