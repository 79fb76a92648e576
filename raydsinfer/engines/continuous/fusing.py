"""Linear layers that read the same input, as one: queries, keys and values; gate and up projections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from raydsinfer.engines.int8.linear import Int8Linear
from raydsinfer.engines.int8.product import int8_linear

_GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class _Fused:
    """Computes all parts when the first is asked for, and keeps the others for those who come with the same input."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.weight = torch.cat([part.weight.data for part in parts])
        self.bias = None if parts[0].bias is None else torch.cat([part.bias.data for part in parts])
        int8 = isinstance(parts[0], Int8Linear)
        self.scale = torch.cat([part.scale.data for part in parts]) if int8 else None
        self.kernel = int8 and parts[0].kernel
        self.sizes = [len(part.weight) for part in parts]
        self._input: torch.Tensor | None = None
        self._parts: list[torch.Tensor | None] = []

    def part(self, index: int, hidden: torch.Tensor) -> torch.Tensor:
        if self._input is not hidden or self._parts[index] is None:
            self._input, self._parts = hidden, list(torch.split(self._whole(hidden), self.sizes, dim=-1))
        part, self._parts[index] = self._parts[index], None
        if not any(other is not None for other in self._parts):
            self._input = None
        assert part is not None  # noqa: S101
        return part

    def _whole(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.scale is None:
            return nn.functional.linear(hidden, self.weight, self.bias)
        return int8_linear(hidden, self.weight, self.scale, self.bias, self.kernel)


class FusedPart(nn.Module):
    """Takes the place of one of the layers.

    Args:
        fused: What the layers share.
        index: Which of them this is.
    """

    def __init__(self, fused: _Fused, index: int) -> None:
        super().__init__()
        self._fused, self._index = fused, index
        start = sum(fused.sizes[:index])
        rows = slice(start, start + fused.sizes[index])
        self.weight = nn.Parameter(fused.weight[rows], requires_grad=False)
        self.bias = None if fused.bias is None else nn.Parameter(fused.bias[rows], requires_grad=False)
        if fused.scale is not None:
            self.scale = nn.Parameter(fused.scale[rows], requires_grad=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., inputs) to (..., outputs)."""
        return self._fused.part(self._index, hidden)


def fuse_linears(model: nn.Module) -> int:
    """Fuse what can be fused; returns how many groups.

    A group is fused if its members are linear layers, with or without bias alike, whose outputs are this rank's
    own: transformers' or DeepSpeed's column-parallel ones, or such with weights in int8.

    Args:
        model: Changed in place. The parts' weights become views of the fused ones.
    """
    count = 0
    for module in list(model.modules()):
        _simplify(module)
        for names in _GROUPS:
            parts = [getattr(module, name, None) for name in names]
            if all(_is_plain(part) for part in parts) and _are_alike(parts):
                _fuse(module, names, parts)
                count += 1
    return count


def _simplify(module: nn.Module) -> None:
    """DeepSpeed's linear layers as torch's, which add the bias in the same kernel, where no ranks must talk."""
    for name, child in list(module.named_children()):
        kind = type(child).__name__ if type(child).__module__.startswith("deepspeed.") else ""
        layer: Any = child
        alone = kind == "LinearLayer" and not getattr(layer, "gather_output", False)
        if alone or (kind == "LinearAllreduce" and getattr(layer, "mp_group", None) is None):
            plain = nn.Linear(1, 1, bias=layer.bias is not None, device="meta")
            plain.weight, plain.bias = layer.weight, layer.bias
            plain.out_features, plain.in_features = layer.weight.shape
            setattr(module, name, plain)


def _fuse(module: nn.Module, names: Sequence[str], parts: Sequence[Any]) -> None:
    fused = _Fused(parts)
    for index, name in enumerate(names):
        setattr(module, name, FusedPart(fused, index))


def _is_plain(layer: Any) -> bool:
    return type(layer) in (nn.Linear, Int8Linear)


def _are_alike(layers: Sequence[Any]) -> bool:
    first = layers[0]
    return all(
        layer.weight.shape[1:] == first.weight.shape[1:]
        and layer.weight.dtype == first.weight.dtype
        and (layer.bias is None) == (first.bias is None)
        for layer in layers
    )
