"""Of which tensors of a checkpoint DeepSpeed's fused layers are made, and where each belongs in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from raydsinfer.checkpoints.resharding.fused import FusedRules, FusedTensor, Region
from raydsinfer.checkpoints.tensors import WHOLE
from raydsinfer.checkpoints.weights.description import Description
from raydsinfer.config import EngineConfig
from raydsinfer.engines import model as models
from raydsinfer.engines.account import Account
from raydsinfer.engines.base import RankContext
from raydsinfer.engines.deepspeed_fill import ignorable_names
from raydsinfer.engines.deepspeed_kernels.injected_layer import injected_layers
from raydsinfer.engines.deepspeed_layout import InjectedLayout, injected_layout
from raydsinfer.engines.deepspeed_sharding import replaced

Sources = Mapping[str, str]
"""Parameter name → name of the tensor that fills it."""


def fused_rules_of(model: Any, description: Description, config: EngineConfig, context: RankContext) -> FusedRules:
    """How to make what DeepSpeed's `save_mp_checkpoint_path` would write.

    Args:
        model: The transformers model, on meta.
        description: The checkpoint.
        config: Inference settings, with kernel injection.
        context: The gang; DeepSpeed is prepared.

    Raises:
        WeightsMismatchError: Checkpoint and model do not fit.
        EngineError: DeepSpeed failed.
    """
    model_type = "bloom" if model.config.model_type == "bloom" else "ds_model"
    shapes, tied = models.parameter_shapes(model), models.tied_names(model)
    sources = _sources(model, description, tied)
    layers = injected_layers(replaced(model, config, context, torch.float32, kernels=True))
    inside = tuple(f"{path}." for path, _ in layers)
    layouts = [injected_layout(layers, shapes, rank, context.world_size) for rank in range(context.world_size)]
    whole = sorted(name for name in sources if not name.startswith(inside))
    groups = {frozenset(next((group for group in tied if name in group), {name})) for name in whole}
    return FusedRules(
        model_type=model_type,
        whole=[_whole(tuple(sorted(group)), sources, description) for group in sorted(groups, key=sorted)],
        by_rank=[_of_rank(layers, layout, sources) for layout in layouts],
    )


def _sources(model: Any, description: Description, tied: list[set[str]]) -> dict[str, str]:
    """What fills each parameter and each stored buffer; everything in the checkpoint is accounted for."""
    path = str(description.directory)
    names = models.tensor_names(model, list(description.tensors), path)
    account = Account(path, names, tied)
    sources = {}
    for name, shape in models.parameter_shapes(model).items():
        source = account.take(name)
        if source is not None and account.fits(name, description.tensors[source].shape, shape):
            sources[name] = source
    account.close(ignorable_names(model, models.copy_buffers(model)))
    return sources | {name: names[name] for name in models.stored_buffers(model) if name in names}


def _whole(names: tuple[str, ...], sources: Sources, description: Description) -> FusedTensor:
    source = sources[names[0]]
    shape = description.tensors[source].shape
    empty = torch.empty(shape, device="meta")
    region = Region(source=source, part=WHOLE, offset=0, shape=shape, stride=empty.stride())
    return FusedTensor(names=names, shape=shape, regions=(region,))


def _of_rank(layers: list[tuple[str, Any]], layout: InjectedLayout, sources: Sources) -> list[FusedTensor]:
    return [tensor for path, layer in layers for tensor in _of_layer(path, layer, layout, sources)]


def _of_layer(path: str, layer: nn.Module, layout: InjectedLayout, sources: Sources) -> list[FusedTensor]:
    regions: dict[str, list[Region]] = {name: [] for name in layout.joined}
    for leaf, (name, view) in _views(layer, layout).items():
        region = Region(
            source=sources[f"{path}.{leaf}"],
            part=layout.slices[leaf],
            offset=int(view.storage_offset()),
            shape=tuple(view.shape),
            stride=tuple(view.stride()),
        )
        regions[name].append(region)
    return [
        FusedTensor(names=(f"{path}.{name}",), shape=tuple(parameter.shape), regions=tuple(regions[name]))
        for name, parameter in layer.named_parameters()
        if name in regions
    ]


def _views(layer: nn.Module, layout: InjectedLayout) -> dict[str, tuple[str, torch.Tensor]]:
    """Each tensor of the original layer → the parameter that it is in, and the view of it that it fills."""
    places = layout.places(layer)
    owners = {parameter.untyped_storage().data_ptr(): name for name, parameter in layer.named_parameters()}
    return {leaf: (owners[view.untyped_storage().data_ptr()], view) for leaf, view in places.items()}
