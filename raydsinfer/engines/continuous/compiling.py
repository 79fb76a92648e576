"""Decoder layers through `torch.compile`: norms, rotations, activations and residuals in few kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from raydsinfer.errors import summary_of

# They talk to other ranks in ways that are not worth tracing; the graph breaks there.
_TALKING = ("LinearAllreduce", "LmHeadLinearAllreduce", "SummedInt8Linear")


def compiler_problem(device: str) -> str:
    """Why nothing can be compiled for a device; empty if it can. Compiles one small function.

    Args:
        device: torch device as a string.
    """
    try:
        torch.compile(lambda numbers: numbers * 2 + 1, dynamic=True)(torch.ones(4, device=device))
    except Exception as error:  # no compiler, no headers, no place for its files, …
        return summary_of(error)
    return ""


class CompiledLayers:
    """A context manager in which decoder layers are compiled, once `compile` was called.

    All layers share one compilation, since they are instances of one class, and it holds for any number of
    tokens from 2 on. Attention is left out of it.

    Args:
        model: A transformers model.
    """

    def __init__(self, model: nn.Module) -> None:
        lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
        longest = max(lists, key=len, default=nn.ModuleList())
        self._layers: list[Any] = list(longest)
        self._compiled: list[Callable[..., Any]] = []
        self._replaced: list[tuple[Any, Callable[..., Any] | None]] = []

    def compile(self) -> None:
        """Compile at the next call of each layer."""
        for layer in self._layers:
            for module in layer.modules():
                if type(module).__name__ in _TALKING:
                    module.forward = torch.compiler.disable(module.forward)  # type: ignore[no-untyped-call]
        self._compiled = [torch.compile(layer.forward, dynamic=True) for layer in self._layers]

    def give_up(self) -> None:
        """Compile nothing any more."""
        self._compiled = []

    def __enter__(self) -> None:
        for layer, compiled in zip(self._layers, self._compiled, strict=False):
            self._replaced.append((layer, vars(layer).get("forward")))
            layer.forward = compiled

    def __exit__(self, *_: object) -> None:
        for layer, own in self._replaced:
            if own is None:
                del layer.forward  # the class's is behind it
            else:
                layer.forward = own
        self._replaced.clear()
