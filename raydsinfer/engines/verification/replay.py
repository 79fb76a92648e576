"""A model whose layers run one a call, with transformers deciding what each layer gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from raydsinfer.errors import UnsupportedError


class _Reached(Exception):
    """The layer has run; the rest of the call is not needed."""


class Replay:
    """A model whose layers run one a call.

    Args:
        model: On the meta device.
        paths: Of its decoder layers, in order.
        device: Where they run.
    """

    def __init__(self, model: nn.Module, paths: list[str], device: str) -> None:
        self.model, self.paths, self._device = model, paths, device
        self.layers = [model.get_submodule(path) for path in paths]
        self._outputs: list[Any] = []
        self._index = self._number = 0
        for index, layer in enumerate(self.layers):
            layer.forward = self._forward_of(index, layer.forward)

    def begin(self, num_batches: int) -> None:
        """Forget what layers gave."""
        self._outputs = [None] * num_batches

    def run_layer(self, index: int, number: int, token_ids: torch.Tensor, positions: torch.Tensor) -> None:
        """Run a layer, whose weights are there, on a batch."""
        self._index, self._number = index, number
        try:
            self._call(token_ids, positions)
        except _Reached:
            return
        raise UnsupportedError(
            what="a layer-by-layer reference of this model",
            why=f"{self.paths[index]} does not run after the layer before it",
            instead="Compare with a golden file.",
        )

    def finish(self, number: int, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Logits of a batch, after all layers."""
        self._index, self._number = len(self.layers), number
        return self._call(token_ids, positions)

    def _call(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        # Padding on the right needs no mask: no token sees those behind it.
        logits: torch.Tensor = self.model(input_ids=token_ids, use_cache=False, logits_to_keep=positions).logits
        return logits

    def _forward_of(self, index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if index < self._index:
                return self._outputs[self._number]
            if index > self._index:
                return args[0] if args else None  # never seen: `run_layer` says what is wrong
            on_device = _moved((args, kwargs), self._device)
            self._outputs[self._number] = _moved(forward(*on_device[0], **on_device[1]), "cpu")
            raise _Reached

        return run

    @contextmanager
    def filled(self, index: int, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """A layer with its weights, for a while."""
        layer = self.layers[index]
        empty = dict(layer.named_parameters(remove_duplicate=False))
        buffers = dict(layer.named_buffers(remove_duplicate=False))
        for name, parameter in empty.items():
            weight = weights[name].to(parameter.dtype)
            set_tensor(layer, name, nn.Parameter(weight, requires_grad=False), "_parameters")
        for name, buffer in buffers.items():
            set_tensor(layer, name, buffer.to(self._device), "_buffers")
        try:
            yield
        finally:
            for name, parameter in empty.items():
                set_tensor(layer, name, parameter, "_parameters")
            for name, buffer in buffers.items():
                set_tensor(layer, name, buffer, "_buffers")


def set_tensor(module: nn.Module, name: str, value: torch.Tensor, kind: str) -> None:
    """Put a tensor into a module; `kind` is ``_parameters`` or ``_buffers``."""
    parent, _, child = name.rpartition(".")
    getattr(module.get_submodule(parent), kind)[child] = value


def _moved(value: Any, device: str) -> Any:
    """The same with all tensors on a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, tuple | list):
        return type(value)(_moved(item, device) for item in value)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    return value
