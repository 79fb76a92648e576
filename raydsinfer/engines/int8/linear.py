"""Linear layers whose weights are 8-bit integers, each row with a scale of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from raydsinfer.engines.int8.product import int8_linear

_LARGEST = 127  # symmetric: -128 is not used
_PIECE_BYTES = 64 * 2**20  # of float32 at once, while quantising

Reduce = Callable[[torch.Tensor], object]
"""Replaces a tensor in place by something of the tensors of all ranks."""


class Int8Linear(nn.Module):
    """A linear layer with weights in int8. A scale belongs to an output, so slicing outputs changes no scale.

    Args:
        num_inputs: Of this rank.
        num_outputs: Of this rank.
        bias: Whether there is one.
        dtype: Of activations and bias.
        device: torch device as a string; ``meta`` takes no memory.
    """

    def __init__(self, num_inputs: int, num_outputs: int, *, bias: bool, dtype: torch.dtype, device: str) -> None:
        super().__init__()
        self.in_features, self.out_features, self.dtype = num_inputs, num_outputs, dtype
        self.weight = _fixed(torch.empty(num_outputs, num_inputs, dtype=torch.int8, device=device))
        self.scale = _fixed(torch.empty(num_outputs, 1, dtype=torch.float32, device=device))
        self.bias = _fixed(torch.empty(num_outputs, dtype=dtype, device=device)) if bias else None
        self.kernel = False
        """Whether the kernel for GPUs is used, where it is faster."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., inputs) to (..., outputs)."""
        return int8_linear(hidden, self.weight, self.scale, self.bias, self.kernel)

    def quantise(self, weight: torch.Tensor) -> None:
        """Take over weights: the largest of each row becomes 127, the others are rounded to the nearest.

        Args:
            weight: Floats (outputs, inputs) on this layer's device.
        """
        least, most = torch.aminmax(weight, dim=1, keepdim=True)
        largest = torch.maximum(most, -least).float()
        self._agree(largest)
        scale = largest / _LARGEST
        self.scale.data.copy_(scale)
        scale = torch.where(scale == 0, 1.0, scale)  # a row of zeros
        num_rows = max(1, _PIECE_BYTES // (4 * weight.shape[1]))
        for piece in (slice(start, start + num_rows) for start in range(0, len(weight), num_rows)):
            rounded = (weight[piece].float() / scale[piece]).round_().clamp_(-_LARGEST, _LARGEST)
            self.weight.data[piece] = rounded

    def _agree(self, largest: torch.Tensor) -> None:
        """Rows are whole here."""


class SummedInt8Linear(Int8Linear):
    """Holds some inputs of each output: outputs are summed over the ranks.

    Its scales are those of the whole rows, so that weights are the same however many ranks there are.

    Args:
        num_inputs: Of this rank.
        num_outputs: Of all ranks.
        bias: Whether there is one; added after the sum.
        dtype: Of activations and bias.
        device: torch device as a string; ``meta`` takes no memory.
        add_up: Sums over the ranks.
        take_largest: Takes the maximum over the ranks.
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        *,
        bias: bool,
        dtype: torch.dtype,
        device: str,
        add_up: Reduce,
        take_largest: Reduce,
    ) -> None:
        super().__init__(num_inputs, num_outputs, bias=bias, dtype=dtype, device=device)
        self._add_up, self._take_largest = add_up, take_largest

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., inputs of this rank) to (..., outputs)."""
        answer = int8_linear(hidden, self.weight, self.scale, None, self.kernel)
        self._add_up(answer)
        return answer if self.bias is None else answer.add_(self.bias)

    def _agree(self, largest: torch.Tensor) -> None:
        self._take_largest(largest)


def _fixed(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
