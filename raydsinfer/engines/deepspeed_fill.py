"""Fills a model that was built without memory, tensor by tensor, and accounts for each.

DeepSpeed's own loader reads whole pickled files on every rank, and passes silently over what does
not match. Here each parameter is read alone, sliced by DeepSpeed's own rule for its layer, and put
on the device; host memory never holds more than one layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from deepspeed.module_inject.layers import TensorParallel_Layer
from torch import nn

from raydsinfer.checkpoints.weights import TensorReader
from raydsinfer.errors import EngineError, WeightsMismatchError


class Filler:
    """Copies tensors of a checkpoint into parameters, and keeps the account.

    Args:
        reader: The checkpoint.
        path: Its name in errors.
        sources: Parameter name → tensor name.
        tied: Groups of parameter names that share one tensor.
        dtype: Of the parameters.
    """

    def __init__(
        self, reader: TensorReader, path: str, sources: dict[str, str], tied: list[set[str]], dtype: torch.dtype
    ) -> None:
        self._reader, self._path, self._sources, self._tied, self._dtype = reader, path, sources, tied, dtype
        self._used: set[str] = set()
        self._never_filled: list[str] = []
        self._wrong_shape: dict[str, str] = {}

    def read(self, name: str) -> torch.Tensor | None:
        """The checkpoint's tensor for a parameter, in the model's dtype; None (and noted) if there is none."""
        names = [name, *sorted(self._partners(name))]
        source = next((self._sources[n] for n in names if n in self._sources), None)
        if source is None:
            self._never_filled.append(name)
            return None
        self._used.update(self._sources[n] for n in names if n in self._sources)
        return self._reader.read(source).to(self._dtype)

    def fill(self, name: str, parameter: torch.Tensor, value: torch.Tensor | None) -> None:
        """Copy a value into a parameter."""
        if value is None:
            return
        if value.shape != parameter.shape:
            self._wrong_shape[name] = f"{tuple(value.shape)} instead of {tuple(parameter.shape)}"
            return
        parameter.data.copy_(value)

    def finish(self, ignorable: Callable[[str], bool]) -> None:
        """Close the account.

        Raises:
            WeightsMismatchError: A parameter was not filled, or a tensor was not used.
        """
        unused = [name for target, name in self._sources.items() if name not in self._used and not ignorable(target)]
        if self._never_filled or unused or self._wrong_shape:
            raise WeightsMismatchError(
                path=self._path,
                never_filled=sorted(self._never_filled),
                nothing_took=sorted(unused),
                wrong_shape=self._wrong_shape,
                hint="If transformers can load this model, try use_meta_tensor=False.",
            )

    def _partners(self, name: str) -> set[str]:
        return {n for group in self._tied if name in group for n in group} - {name}


def fill_autotp(model: nn.Module, filler: Filler) -> None:
    """Fill a model whose linear layers DeepSpeed's AutoTP has replaced by slices."""
    for path, module in model.named_modules():
        if isinstance(module, TensorParallel_Layer):
            _fill_slice(path, module, filler)
            continue
        for leaf, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{leaf}" if path else leaf
            filler.fill(name, parameter, filler.read(name))


def _fill_slice(path: str, layer: TensorParallel_Layer, filler: Filler) -> None:
    """Fill one sliced layer; the slice is cut by the layer's own rule, uneven heads and fused QKV included."""
    names = {f"{path}.weight": layer.weight}
    if layer.bias is not None:
        names[f"{path}.bias"] = layer.bias
    whole = [value for value in map(filler.read, names) if value is not None]
    if len(whole) < len(names):
        return
    parts: list[Any] = [nn.Parameter(value, requires_grad=False) for value in whole]
    layer._tp_partition(parts if len(parts) == 2 else [*parts, None])
    for (name, parameter), part in zip(names.items(), parts, strict=True):
        filler.fill(name, parameter, part.data)


def fill_injected(model: nn.Module, layers: Iterable[tuple[str, nn.Module]], filler: Filler, context: Any) -> None:
    """Fill a model whose decoder layers DeepSpeed has replaced by fused ones, a layer at a time.

    Args:
        model: The model.
        layers: Path and module of each fused layer.
        filler: The account.
        context: `RankContext` of this rank.
    """
    from deepspeed.module_inject import replace_module
    from deepspeed.module_inject.auto_tp import ReplaceWithTensorSlicing
    from deepspeed.module_inject.replace_module import GroupQuantizer

    container = replace_module.container_g
    if container is None:
        raise EngineError(doing="filling injected layers", reason="DeepSpeed replaced no layer")
    group = torch.distributed.group.WORLD if context.world_size > 1 else None
    slicing, quantizer = ReplaceWithTensorSlicing(group, context.world_size), GroupQuantizer(q_int8=False)
    paths = []
    for path, layer in layers:
        paths.append(f"{path}.")
        before = list(layer.parameters())  # kept alive: identity is compared below
        tensors = {name: filler.read(name) for name in _client_names(container, f"{path}.")}
        state = {name: value.to(context.device) for name, value in tensors.items() if value is not None}
        # DeepSpeed swaps a parameter for a new one when it fills it: one that is still the old was forgotten.
        container.load_params(layer, state, quantizer, slicing, f"{path}.")
        left = [name for name, p in layer.named_parameters() if any(p is old for old in before)]
        if left and len(state) == len(tensors):
            raise EngineError(doing=f"filling {path}", reason=f"DeepSpeed left {', '.join(left)} without values")
    for name, parameter in model.named_parameters():
        if not name.startswith(tuple(paths)):
            filler.fill(name, parameter, filler.read(name))


def _client_names(container: Any, prefix: str) -> list[str]:
    """Names of the parameters that the replaced transformers layer had."""
    return [prefix + name for name, _ in container.policy.client_module.named_parameters()]


def ignorable_names(model: nn.Module, buffers: Iterable[str]) -> Callable[[str], bool]:
    """Which tensors of a checkpoint a model knowingly leaves: its buffers, and what its class lists."""
    # Older checkpoints of rotary models hold the frequencies of each layer, which are computed today.
    listed = [*(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []), r"rotary_emb\.inv_freq$"]
    patterns = [re.compile(pattern) for pattern in listed]
    known = set(buffers)

    def ignorable(name: str) -> bool:
        return name in known or any(pattern.search(name) for pattern in patterns)

    return ignorable
