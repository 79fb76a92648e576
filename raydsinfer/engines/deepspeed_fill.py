"""Fills a model that was built without memory, slice by slice, and accounts for each tensor.

DeepSpeed's own loader reads whole pickled files on every rank, and passes silently over what does
not match. Here a rank reads of each tensor the part that it keeps, straight from the mapped file to
its device; host memory holds a few staging buffers, device memory two decoder layers beside the model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from raydsinfer.checkpoints.tensors import WHOLE, Slice
from raydsinfer.checkpoints.weights.reader import TensorReader
from raydsinfer.engines.account import Account
from raydsinfer.engines.copying import Copier
from raydsinfer.engines.deepspeed_slices import Shapes, autotp_slices, even_slices
from raydsinfer.errors import EngineError


@dataclass(frozen=True)
class _Copy:
    target: torch.Tensor
    parts: list[torch.Tensor]
    dim: int


@dataclass(frozen=True, kw_only=True)
class Filler:
    """Brings slices of a checkpoint's tensors into parameters.

    Args:
        reader: The checkpoint.
        account: Which tensor belongs to which parameter.
        shapes: Shape of each parameter before anything was sliced.
        copier: Copies to the device.
        begin: Told how many bytes there are to copy, just before the first.
    """

    reader: TensorReader
    account: Account
    shapes: Shapes
    copier: Copier
    begin: Callable[[int], None]

    def plan(self, name: str, parameter: torch.Tensor, wanted: Slice) -> _Copy | None:
        """What to copy into a parameter; None, and noted, if there is nothing that fits."""
        source = self.account.take(name)
        if source is None or not self.account.fits(name, self.reader.shape(source), self.shapes[name]):
            return None
        if not self.account.fits(name, wanted.shape_of(self.shapes[name]), parameter.shape):
            return None
        parts = self.reader.parts(source, wanted)
        dtype = str(parts[0].dtype).removeprefix("torch.")
        if not self.account.converts(name, dtype, floating=parameter.is_floating_point()):
            return None
        return _Copy(parameter.data, parts, wanted.dim or 0)

    def run(self, plans: Iterable[_Copy | None]) -> list[Future[Any]]:
        """Start to copy what there is; returns what `Copier.wait` wants."""
        return [future for plan in plans if plan for future in self.copier.copy(plan.target, plan.parts, plan.dim)]

    def num_bytes(self, slices: Mapping[str, Slice], item_bytes: int) -> int:
        """Bytes of the parameters, when sliced so."""
        return sum(math.prod(part.shape_of(self.shapes[name])) * item_bytes for name, part in slices.items())


def fill_autotp(model: nn.Module, filler: Filler, rank: int) -> None:
    """Fill a model whose linear layers DeepSpeed's AutoTP has replaced by slices."""
    slices = autotp_slices(model, filler.shapes, rank)
    parameters = dict(model.named_parameters())
    plans = [filler.plan(name, parameter, slices[name]) for name, parameter in parameters.items()]
    filler.begin(sum(p.nbytes for p in parameters.values()))
    filler.copier.wait(filler.run(plans))


def fill_injected(
    model: nn.Module, layers: Sequence[tuple[str, nn.Module]], filler: Filler, context: Any, dtype: torch.dtype
) -> None:
    """Fill a model whose decoder layers DeepSpeed has replaced by fused ones, a layer at a time.

    Args:
        model: The model.
        layers: Path and module of each fused layer.
        filler: The checkpoint.
        context: `RankContext` of this rank.
        dtype: Of the weights.
    """
    fuse = _Fuse(context, dtype)
    paths = tuple(f"{path}." for path, _ in layers)
    others = {name: p for name, p in model.named_parameters() if not name.startswith(paths)}
    in_layers = {prefix + leaf: part for prefix in paths for leaf, part in fuse.slices.items()}
    plans = [filler.plan(name, parameter, WHOLE) for name, parameter in others.items()]
    filler.begin(filler.num_bytes({**in_layers, **dict.fromkeys(others, WHOLE)}, dtype.itemsize))
    begun = [fuse.start(path, filler) for path, _ in layers[:1]]
    for (path, layer), following in zip(layers, [*layers[1:], None], strict=True):
        if following is not None:  # is read while this one is joined
            begun.append(fuse.start(following[0], filler))
        fuse.finish(path, layer, begun.pop(0), filler)
    filler.copier.wait(filler.run(plans))


@dataclass(frozen=True)
class _Begun:
    state: dict[str, torch.Tensor]
    copies: list[Future[Any]]


class _Fuse:
    """Fills DeepSpeed's fused layers from the slices of the layers that they replaced.

    DeepSpeed joins and transposes the tensors itself, on the device; given slices of the right size,
    it does not slice again.
    """

    def __init__(self, context: Any, dtype: torch.dtype) -> None:
        from deepspeed.module_inject import replace_module
        from deepspeed.module_inject.auto_tp import ReplaceWithTensorSlicing
        from deepspeed.module_inject.replace_module import GroupQuantizer

        if replace_module.container_g is None:
            raise EngineError(doing="filling injected layers", reason="DeepSpeed replaced no layer")
        self._container, self._device, self._dtype = replace_module.container_g, context.device, dtype
        self._quantizer, self._slicing = GroupQuantizer(q_int8=False), ReplaceWithTensorSlicing()
        policy = self._container.policy
        # Weights and biases of query-key-value and output, then of both halves of the MLP.
        summed = (policy.attention()[2], policy.mlp()[2])
        self.slices = even_slices(policy.client_module, summed, context.world_rank, context.world_size)

    def start(self, path: str, filler: Filler) -> _Begun:
        """Start to read the tensors of a layer."""
        state, plans = {}, []
        for leaf, wanted in self.slices.items():
            name = f"{path}.{leaf}"
            value = torch.empty(wanted.shape_of(filler.shapes[name]), dtype=self._dtype, device=self._device)
            plan = filler.plan(name, value, wanted)
            if plan is not None:
                state[name] = value
                plans.append(plan)
        return _Begun(state, filler.run(plans))

    def finish(self, path: str, layer: nn.Module, begun: _Begun, filler: Filler) -> None:
        """Let DeepSpeed join what was read into the fused layer."""
        before = list(layer.parameters())  # kept alive: identity is compared below
        filler.copier.wait(begun.copies)
        state = begun.state
        # DeepSpeed swaps a parameter for a new one when it fills it: one that is still the old was forgotten.
        self._container.load_params(layer, state, self._quantizer, self._slicing, f"{path}.")
        left = [name for name, p in layer.named_parameters() if any(p is old for old in before)]
        if left and len(state) == len(self.slices):
            raise EngineError(doing=f"filling {path}", reason=f"DeepSpeed left {', '.join(left)} without values")


def ignorable_names(model: nn.Module, buffers: Iterable[str]) -> Callable[[str], bool]:
    """Which tensors of a checkpoint a model knowingly leaves: its buffers, and what its class lists."""
    # Older checkpoints of rotary models hold the frequencies of each layer, which are computed today.
    listed = [*(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []), r"rotary_emb\.inv_freq$"]
    patterns = [re.compile(pattern) for pattern in listed]
    known = set(buffers)

    def ignorable(name: str) -> bool:
        return name in known or any(pattern.search(name) for pattern in patterns)

    return ignorable
