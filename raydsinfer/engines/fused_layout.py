"""Where a fused layer keeps the tensors of the decoder layer that it replaced, read off numbers.

The tensors of a miniature layer get the numbers 0, 1, 2, … instead of weights. Where the numbers are after
somebody else has joined and transposed them says where the weights of a real layer belong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

Shape = Sequence[int]


@dataclass(frozen=True)
class Joined:
    """What one parameter of a fused layer is made of.

    Args:
        leaves: Names of the tensors that follow each other along the first dimension.
        transposed: Whether that is so of the parameter's transpose.
    """

    leaves: tuple[str, ...]
    transposed: bool

    def places(self, parameter: torch.Tensor, shapes: Mapping[str, Shape]) -> dict[str, torch.Tensor]:
        """The view of a parameter that each tensor fills.

        Args:
            parameter: Of a fused layer.
            shapes: Shape of each tensor.
        """
        rows = parameter.t() if self.transposed else parameter
        return dict(zip(self.leaves, torch.split(rows, [shapes[leaf][0] for leaf in self.leaves]), strict=True))


def shrunk(*groups: Mapping[str, Shape]) -> list[dict[str, tuple[int, ...]]]:
    """Groups of shapes in the same proportions, as small as they can be with no size below two.

    Sizes of one would hide what is transposed. Odd sizes stay as they are.
    """
    common = math.gcd(*(size for shapes in groups for shape in shapes.values() for size in shape))
    unit = common // 2 if common % 2 == 0 else 1
    return [{name: tuple(size // unit for size in shape) for name, shape in shapes.items()} for shapes in groups]


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
        ValueError: A parameter is made of something else, or a tensor is not in exactly one of them.
    """
    layout = {name: _joined(name, tensors, parameter) for name, parameter in fused.items()}
    used = sorted(leaf for joined in layout.values() for leaf in joined.leaves)
    if used != sorted(tensors):
        raise ValueError(f"of the tensors {', '.join(sorted(tensors))} it took {', '.join(used)}")
    return layout


def _joined(name: str, tensors: Mapping[str, torch.Tensor], parameter: torch.Tensor) -> Joined:
    firsts = {tensor.flatten()[0].item(): leaf for leaf, tensor in tensors.items()}
    for transposed in (False, True)[: parameter.dim()]:
        rows, leaves = parameter.t() if transposed else parameter, []
        while len(rows) and (leaf := firsts.get(rows.flatten()[0].item())):
            tensor = tensors[leaf]
            if not torch.equal(rows[: len(tensor)], tensor):
                break
            leaves.append(leaf)
            rows = rows[len(tensor) :]
        if not len(rows):
            return Joined(tuple(leaves), transposed)
    raise ValueError(f"{name} is not made of whole tensors")
