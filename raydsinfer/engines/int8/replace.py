"""Which layers of a model are held in int8, and their replacement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from raydsinfer.engines.int8.linear import Int8Linear
from raydsinfer.engines.model import layer_paths
from raydsinfer.errors import UnsupportedError

Make = Callable[[nn.Module, torch.dtype], "Int8Linear | None"]
"""Makes the int8 form of a layer, on the meta device, for activations of a dtype; None for what is no linear layer."""

_LEAST_SHARE = 0.5


def require_float_weights(model_config: Any) -> None:
    """Look whether a model's weights can be quantised at all.

    Args:
        model_config: The model's `transformers` configuration.

    Raises:
        UnsupportedError: They are quantised already.
    """
    found = getattr(model_config, "quantization_config", None)
    if found is None:
        return
    method = found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
    raise UnsupportedError(
        what="dtype='int8' for this model",
        why=f"its weights are quantised already ({method or 'as its config.json says'})",
        instead="Use the model's original float weights.",
    )


def require_linears(model: nn.Module) -> None:
    """Look whether int8 would be of use to a model that nothing has sliced; its parameters need no memory.

    Raises:
        UnsupportedError: Linear layers are less than half of the decoder layers.
    """
    _require_share(model, [path for path, layer in _within_layers(model) if type(layer) is nn.Linear])


def int8_layers(model: nn.Module) -> dict[str, Int8Linear]:
    """The layers of a model that are held in int8, by path, in order."""
    return {path: module for path, module in model.named_modules() if isinstance(module, Int8Linear)}


def replace_linears(model: nn.Module, make: Make, dtype: torch.dtype, *, device: str, fill: bool) -> int:
    """Put int8 layers in the place of the linear layers within a model's decoder layers; returns how many.

    Embeddings, norms and the output head stay as they are: they are a small part of a large model.

    Args:
        model: Changed in place.
        make: Makes them.
        dtype: Of activations.
        device: Of the new layers, as a string; ``meta`` for later.
        fill: Whether they take over the old layers' weights, one after the other; no old one is kept.

    Raises:
        UnsupportedError: Linear layers are less than half of the decoder layers.
    """
    made = {path: new for path, old in _within_layers(model) if (new := make(old, dtype)) is not None}
    _require_share(model, list(made))
    for path, new in made.items():
        parent, _, child = path.rpartition(".")
        old = model.get_submodule(path)
        setattr(model.get_submodule(parent), child, new)
        if device != "meta":
            new.to_empty(device=device)
        if fill:
            _take_over(new, old, device)
    return len(made)


def linear_as_int8(layer: nn.Module, dtype: torch.dtype) -> Int8Linear | None:
    """The int8 form of torch's own linear layer; see `Make`."""
    if type(layer) is not nn.Linear:
        return None
    outputs, inputs = layer.weight.shape
    return Int8Linear(inputs, outputs, bias=layer.bias is not None, dtype=dtype, device="meta")


def _take_over(made: Int8Linear, old: Any, device: str) -> None:
    made.quantise(old.weight.data.to(device))
    if made.bias is not None:
        made.bias.data.copy_(old.bias.data)


def _within_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    layers = tuple(f"{path}." for path in layer_paths(model))
    return [(path, module) for path, module in model.named_modules() if path.startswith(layers)]


def _require_share(model: nn.Module, paths: list[str]) -> None:
    layers = [model.get_submodule(path) for path in layer_paths(model)]
    whole = sum(p.numel() for p in {id(p): p for layer in layers for p in layer.parameters()}.values())
    linear = sum(p.numel() for path in paths for p in model.get_submodule(path).parameters())
    if not paths or linear < _LEAST_SHARE * whole:
        raise UnsupportedError(
            what=f"dtype='int8' for {type(model).__name__}",
            why=f"only linear layers are quantised, and those hold {linear:,} of the {whole:,} parameters of its "
            "decoder layers",
            instead="Use dtype='float16' or 'bfloat16'.",
        )
