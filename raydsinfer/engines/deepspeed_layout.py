"""Where DeepSpeed's fused layers want the tensors of the layers that they replaced, asked from its own loader.

Its loader joins and transposes a layer's tensors, through copies of all of them. Here it does so once, with a
miniature that holds numbers; so there is one truth about the layout, and weights are read to where they stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from raydsinfer.checkpoints.tensors import Slice
from raydsinfer.engines.deepspeed_setup import deepspeed_errors
from raydsinfer.engines.deepspeed_slices import Shapes, even_slices
from raydsinfer.engines.fused_layout import Joined, Shape, numbered, read_layout, shrunk
from raydsinfer.errors import EngineError


@dataclass(frozen=True, kw_only=True)
class InjectedLayout:
    """What a rank keeps of a decoder layer's tensors, and where its fused layer has them.

    Args:
        slices: Tensor name, within the layer → what the rank keeps.
        shapes: Tensor name → shape of that.
        joined: Parameter of the fused layer → what it is made of.
    """

    slices: Mapping[str, Slice]
    shapes: Mapping[str, Shape]
    joined: Mapping[str, Joined]

    def places(self, layer: nn.Module) -> dict[str, torch.Tensor]:
        """The view of a fused layer's parameters that each tensor fills."""
        parameters = dict(layer.named_parameters())
        found = [joined.places(parameters[name], self.shapes) for name, joined in self.joined.items()]
        return {leaf: view for places in found for leaf, view in places.items()}


def injected_layout(
    layers: Sequence[tuple[str, nn.Module]], shapes: Shapes, rank: int, world_size: int
) -> InjectedLayout:
    """The layout of the layers that DeepSpeed put into a model just now.

    Args:
        layers: Path and module of each fused layer; they are alike.
        shapes: Shape of each of the model's parameters before.
        rank: World rank.
        world_size: Number of ranks.

    Raises:
        EngineError: There is none, or it is not one of whole tensors that follow each other.
    """
    from deepspeed.module_inject import replace_module

    container = replace_module.container_g
    if container is None or not layers:
        raise EngineError(doing="filling injected layers", reason="DeepSpeed replaced no layer")
    path, layer = layers[0]
    policy = container.policy
    # Weights and biases of query-key-value and output, then of both halves of the MLP.
    summed = (policy.attention()[2], policy.mlp()[2])
    slices = even_slices(policy.client_module, summed, rank, world_size)
    kept = {leaf: part.shape_of(shapes[f"{path}.{leaf}"]) for leaf, part in slices.items()}
    with deepspeed_errors(f"asking DeepSpeed how it fills {path}"):
        joined = _asked(container, kept, {name: tuple(p.shape) for name, p in layer.named_parameters()})
    return InjectedLayout(slices=slices, shapes=kept, joined=joined)


def _asked(container: Any, kept: Mapping[str, Shape], fused: Mapping[str, Shape]) -> dict[str, Joined]:
    from deepspeed.module_inject.auto_tp import ReplaceWithTensorSlicing
    from deepspeed.module_inject.replace_module import GroupQuantizer

    small, small_fused = shrunk(kept, fused)
    tensors, miniature = numbered(small), _skeleton(small_fused)
    # Given slices of the right size it does not slice again.
    container.load_params(miniature, dict(tensors), GroupQuantizer(q_int8=False), ReplaceWithTensorSlicing(), "")
    return read_layout(tensors, {name: p.data for name, p in miniature.named_parameters()})


def _skeleton(shapes: Mapping[str, Shape]) -> nn.Module:
    """Modules that hold parameters of these names and shapes, and nothing else; no value is one of `numbered`."""
    root = nn.Module()
    for name, shape in shapes.items():
        *path, leaf = name.split(".")
        module = root
        for child in path:
            if child not in dict(module.named_children()):
                module.add_module(child, nn.Module())
            module = module.get_submodule(child)
        values = torch.full(tuple(shape), -1.0, dtype=torch.float64)
        module.register_parameter(leaf, nn.Parameter(values, requires_grad=False))
    return root
