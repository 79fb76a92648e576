"""Where DeepSpeed's fused layers want the tensors of the layers that they replaced, asked from its own code.

It joins, transposes, reorders and cuts a layer's tensors, through copies of all of them. Here it does so once,
with a miniature that holds numbers; so there is one truth about the layout, and weights are read to where they
stay.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from raydsinfer.checkpoints.tensors import Slice
from raydsinfer.engines.deepspeed_setup import deepspeed_errors
from raydsinfer.engines.deepspeed_slices import Shapes
from raydsinfer.engines.fused_layout import Joined, Shape, numbered, read_layout, shrunk, unit_of
from raydsinfer.errors import EngineError


@dataclass(frozen=True, kw_only=True)
class InjectedLayout:
    """What a rank keeps of a decoder layer's tensors, and where its fused layer has them.

    Args:
        joined: Parameter of the fused layer → what it is made of.
    """

    joined: Mapping[str, Joined]

    @property
    def slices(self) -> dict[str, Slice]:
        """Tensor name, within the layer → what the rank keeps."""
        return {part.leaf: part.wanted for joined in self.joined.values() for part in joined.parts}

    def places(self, layer: nn.Module) -> dict[str, torch.Tensor]:
        """The view of a fused layer's parameters that each tensor fills."""
        parameters = dict(layer.named_parameters())
        found = [joined.places(parameters[name]) for name, joined in self.joined.items()]
        return {leaf: view for places in found for leaf, view in places.items()}

    def drop_others(self, layer: nn.Module) -> None:
        """Take away parameters of a fused layer that nothing fills: its family has no such bias or norm.

        Args:
            layer: The fused layer; DeepSpeed made it of meta tensors.
        """
        for name in {name for name, _ in layer.named_parameters()} - set(self.joined):
            path, _, leaf = name.rpartition(".")
            setattr(layer.get_submodule(path), leaf, None)


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
        EngineError: There is none, or it is not one of slices of whole tensors.
    """
    from deepspeed.module_inject import replace_module

    container = replace_module.container_g
    if container is None or not layers:
        raise EngineError(doing="filling injected layers", reason="DeepSpeed replaced no layer")
    path, layer = layers[0]
    whole = {leaf: shapes[f"{path}.{leaf}"] for leaf, _ in container.policy.client_module.named_parameters()}
    with deepspeed_errors(f"asking DeepSpeed how it fills {path}"):
        return InjectedLayout(joined=_asked(container, whole, layer, rank, world_size))


def _asked(
    container: Any, whole: Mapping[str, Shape], layer: nn.Module, rank: int, world_size: int
) -> dict[str, Joined]:
    """What DeepSpeed's steps for layers that hold weights do with numbers."""
    from deepspeed.module_inject.auto_tp import ReplaceWithTensorSlicing

    cut = {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
    unit = unit_of(container.hidden_size // container.num_attention_heads, whole, cut)
    tensors = numbered(shrunk(whole, unit))
    asked = copy.copy(container)
    asked.policy = copy.copy(container.policy)
    asked.policy.client_module = _with(container.policy.client_module, tensors)
    asked.module = miniature = _skeleton(layer, unit)
    slicing = ReplaceWithTensorSlicing(mp_size=world_size)
    slicing.gpu_index = rank
    asked.initialize_tensors()
    asked.transpose()
    asked.apply_tensor_parallelism(slicing)
    asked.copy_data_to_new_module()
    layout = read_layout(tensors, {name: p.data.cpu() for name, p in miniature.named_parameters()})
    return {name: joined.scaled(unit) for name, joined in layout.items()}


def _with(layer: nn.Module, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """A copy of a decoder layer that has these parameters."""
    layer = copy.deepcopy(layer)
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        setattr(layer.get_submodule(path), leaf, nn.Parameter(tensor.clone(), requires_grad=False))
    return layer


def _skeleton(layer: nn.Module, unit: int) -> nn.Module:
    """Modules that have the parameters of a fused layer and nothing else, smaller by `unit`; none has a number."""
    root = nn.Module()
    for name, parameter in layer._parameters.items():
        sizes = None if parameter is None else [size // unit for size in parameter.shape]
        values = None if sizes is None else nn.Parameter(torch.full(sizes, -1.0, dtype=torch.float64), False)
        root.register_parameter(name, values)
    for name, child in layer.named_children():
        root.add_module(name, _skeleton(child, unit))
    return root
