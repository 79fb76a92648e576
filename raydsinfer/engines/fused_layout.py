"""Where a fused layer keeps what of the decoder layer that it replaced, read off numbers.

The tensors of a miniature layer get the numbers 0, 1, 2, … instead of weights. Where the numbers are after
somebody else has joined, transposed, reordered and cut them says where the weights of a real layer belong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from raydsinfer.checkpoints.tensors import Slice, merged

Shape = Sequence[int]


@dataclass(frozen=True)
class Part:
    """Consecutive rows of a fused parameter that come from one tensor.

    Args:
        leaf: The tensor's name.
        wanted: Which part of it, in the order in which it is wanted.
        rows: How many rows of the fused parameter it fills.
    """

    leaf: str
    wanted: Slice
    rows: int

    def scaled(self, unit: int) -> Part:
        """The same in a layer whose sizes are `unit` times as large."""
        ranges = tuple((start * unit, stop * unit) for start, stop in self.wanted.ranges)
        return Part(self.leaf, Slice(self.wanted.dim, ranges), self.rows * unit)


@dataclass(frozen=True)
class Joined:
    """What one parameter of a fused layer is made of.

    Args:
        parts: What follows each other along the first dimension.
        transposed: Whether that is so of the parameter's transpose.
    """

    parts: tuple[Part, ...]
    transposed: bool

    def places(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        """The view of a parameter that the part of each tensor fills."""
        rows = parameter.t() if self.transposed else parameter
        views = torch.split(rows, [part.rows for part in self.parts])
        return {part.leaf: view for part, view in zip(self.parts, views, strict=True)}

    def scaled(self, unit: int) -> Joined:
        """The same in a layer whose sizes are `unit` times as large."""
        return Joined(tuple(part.scaled(unit) for part in self.parts), self.transposed)


def unit_of(head_size: int, *groups: Mapping[str, Shape]) -> int:
    """By how much a layer's sizes can be divided: heads stay whole, and no size falls below two.

    Sizes of one would hide what is transposed.

    Args:
        head_size: Elements of an attention head.
        groups: Shapes by name, of whole tensors and of cut ones.
    """
    common = math.gcd(head_size, *(size for shapes in groups for shape in shapes.values() for size in shape))
    return common // 2 if common % 2 == 0 else 1


def shrunk(shapes: Mapping[str, Shape], unit: int) -> dict[str, tuple[int, ...]]:
    """Each size divided by `unit`."""
    return {name: tuple(size // unit for size in shape) for name, shape in shapes.items()}


def numbered(shapes: Mapping[str, Shape]) -> dict[str, torch.Tensor]:
    """A tensor of each shape; no number is twice in all of them."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    numbers = torch.split(torch.arange(sum(sizes), dtype=torch.float64), sizes)
    return {name: part.reshape(tuple(shape)) for (name, shape), part in zip(shapes.items(), numbers, strict=True)}


def read_layout(tensors: Mapping[str, torch.Tensor], fused: Mapping[str, torch.Tensor]) -> dict[str, Joined]:
    """How parameters were made from numbered tensors.

    Args:
        tensors: Name → what `numbered` gave.
        fused: Name → parameter, made of these numbers.

    Returns:
        Parameter name → what it is made of.

    Raises:
        ValueError: A parameter is made of something else, or a tensor is not in exactly one place.
    """
    layout = {name: _joined(name, tensors, parameter) for name, parameter in fused.items()}
    used = sorted(part.leaf for joined in layout.values() for part in joined.parts)
    if used != sorted(tensors):
        raise ValueError(f"of the tensors {', '.join(sorted(tensors))} it took {', '.join(used)}")
    return layout


def _joined(name: str, tensors: Mapping[str, torch.Tensor], parameter: torch.Tensor) -> Joined:
    for transposed in (False, True)[: parameter.dim()]:
        parts = _parts(tensors, parameter.t() if transposed else parameter)
        if parts is not None:
            return Joined(parts, transposed)
    raise ValueError(f"{name} is not made of slices of whole tensors")


def _parts(tensors: Mapping[str, torch.Tensor], parameter: torch.Tensor) -> tuple[Part, ...] | None:
    """What rows of numbers are made of, each tensor's in one piece; None if they are not."""
    rows, names = parameter.reshape(len(parameter), -1), list(tensors)
    starts = torch.tensor([float(tensor.flatten()[0]) for tensor in tensors.values()], dtype=rows.dtype)
    if not rows.numel() or rows.min() < 0:
        return None
    owners = torch.searchsorted(starts, rows.contiguous(), right=True) - 1
    if not torch.equal(owners, owners[:, :1].expand_as(owners)):
        return None
    parts, owner = [], owners[:, 0]
    breaks = (owner.diff() != 0).nonzero().flatten() + 1
    for block, index in zip(rows.tensor_split(breaks.tolist()), owner[[0, *breaks.tolist()]].tolist(), strict=True):
        wanted = _slice(tuple(tensors[names[index]].shape), block - starts[index])
        if wanted is None:
            return None
        parts.append(Part(names[index], wanted, len(block)))
    return tuple(parts)


def _slice(shape: tuple[int, ...], numbers: torch.Tensor) -> Slice | None:
    """Which slice of a tensor, numbered from 0, a block is; None if it is none."""
    width = shape[1] if len(shape) == 2 else 1
    rows, columns = (numbers // width).long(), (numbers % width).long()
    if not torch.equal(rows, rows[:, :1].expand_as(rows)) or not torch.equal(columns, columns[:1].expand_as(columns)):
        return None
    kept = (rows[:, 0], columns[0])
    by_dim = [Slice(dim, ranges_of(indices)) for dim, indices in enumerate(kept[: len(shape)])]
    cut = [part for part in (merged(part, shape) for part in by_dim) if part.dim is not None]
    if len(cut) > 1:
        return None
    return cut[0] if cut else Slice()


def ranges_of(indices: torch.Tensor) -> tuple[tuple[int, int], ...]:
    """Consecutive indices as half-open ranges: 4, 5, 6, 0, 1 gives ``((4, 7), (0, 2))``."""
    if not indices.numel():
        return ()
    breaks = (indices.diff() != 1).nonzero().flatten() + 1
    return tuple((int(run[0]), int(run[-1]) + 1) for run in indices.tensor_split(breaks.tolist()))
