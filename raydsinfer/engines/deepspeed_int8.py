"""Int8 layers in the place of the linear layers that DeepSpeed's AutoTP has sliced, filled one after the other.

No rank ever holds its part of the model in floats: DeepSpeed slices a model without memory, int8 layers take the
place of what it made, and each matrix is read, quantised on the device and let go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

import torch
from deepspeed import comm
from deepspeed.comm import pg_utils
from deepspeed.module_inject.layers import LinearAllreduce
from torch import nn

from raydsinfer.checkpoints.tensors import Slice
from raydsinfer.engines.deepspeed_fill import Filler
from raydsinfer.engines.deepspeed_slices import Shapes, autotp_slices, cuts_rows
from raydsinfer.engines.int8.linear import Int8Linear, SummedInt8Linear
from raydsinfer.engines.int8.replace import int8_layers, linear_as_int8, replace_linears
from raydsinfer.errors import EngineError

IN_FLIGHT_BYTES = 256 * 2**20
"""Bytes of float matrices that are read while others are quantised; one that is larger is read alone."""


def sliced_as_int8(layer: nn.Module, dtype: torch.dtype) -> Int8Linear | None:
    """The int8 form of a linear layer, DeepSpeed's or torch's; see `replace.Make`."""
    any_layer: Any = layer
    if type(layer) is LinearAllreduce and pg_utils.is_parallel(any_layer.mp_group):
        outputs, inputs = any_layer.weight.shape
        return SummedInt8Linear(
            inputs,
            outputs,
            bias=any_layer.bias is not None,
            dtype=dtype,
            device="meta",
            add_up=partial(comm.inference_all_reduce, group=any_layer.mp_group),
            take_largest=partial(comm.all_reduce, op=comm.ReduceOp.MAX, group=any_layer.mp_group),
        )
    # What gathers its output, or keeps its weights transposed, has a forward of its own.
    if (cuts_rows(layer) and not any_layer.gather_output) or type(layer) is LinearAllreduce:
        outputs, inputs = any_layer.weight.shape
        return Int8Linear(inputs, outputs, bias=any_layer.bias is not None, dtype=dtype, device="meta")
    return linear_as_int8(layer, dtype)


def hold_int8(model: nn.Module, shapes: Shapes, rank: int, *, dtype: torch.dtype, device: str) -> dict[str, Slice]:
    """Put int8 layers into a model that DeepSpeed has sliced without memory, and give all of it memory.

    Args:
        model: On the meta device; changed in place.
        shapes: Shape of each parameter before DeepSpeed sliced it.
        rank: World rank.
        dtype: Of activations.
        device: torch device as a string.

    Returns:
        What the rank keeps of each parameter that the model had: see `autotp_slices`.

    Raises:
        EngineError: The model had memory already, so that int8 would save none while it is loaded.
        UnsupportedError: Most of the decoder layers are no linear layers, or DeepSpeed sliced in a way of its own.
    """
    if any(not parameter.is_meta for parameter in model.parameters()):
        raise EngineError(
            doing="loading weights in int8", reason="DeepSpeed gave the model memory before it was filled"
        )
    slices = autotp_slices(model, shapes, rank)
    replace_linears(model, sliced_as_int8, dtype, device="meta", fill=False)
    model.to_empty(device=device)
    return slices


def fill_int8(model: nn.Module, filler: Filler, slices: Mapping[str, Slice], device: str) -> None:
    """Fill a model whose linear layers are int8 ones.

    Args:
        model: On the device; nothing is filled yet.
        filler: The checkpoint.
        slices: Of `hold_int8`.
        device: torch device as a string.
    """
    layers = int8_layers(model)
    own = {f"{path}.{leaf}" for path in layers for leaf in ("weight", "scale")}
    others = {name: p for name, p in model.named_parameters() if name not in own}
    floats = {path: layer.weight.numel() * layer.dtype.itemsize for path, layer in layers.items()}
    filler.begin(sum(p.nbytes for p in others.values()) + sum(floats.values()))
    plans = [filler.plan(name, parameter, slices[name]) for name, parameter in others.items()]
    copied = filler.copier.start(plan for plan in plans if plan)
    reading: deque[_Reading] = deque()
    for path, layer in layers.items():
        while reading and sum(r.weight.nbytes for r in reading) + floats[path] > IN_FLIGHT_BYTES:
            reading.popleft().finish(filler)
        reading.append(_Reading(filler, f"{path}.weight", layer, slices[f"{path}.weight"], device))
    while reading:
        reading.popleft().finish(filler)
    filler.copier.wait(copied)


class _Reading:
    """A matrix on its way to an int8 layer."""

    def __init__(self, filler: Filler, name: str, layer: Int8Linear, wanted: Slice, device: str) -> None:
        self._layer = layer
        self.weight = torch.empty(layer.weight.shape, dtype=layer.dtype, device=device)
        plan = filler.plan(name, self.weight, wanted)
        self._started: list[Future[Any]] = filler.copier.start([plan] if plan else [])

    def finish(self, filler: Filler) -> None:
        filler.copier.wait(self._started)
        self._layer.quantise(self.weight)
