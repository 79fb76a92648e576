"""Leads a transformers model's attention to the paged KV cache, and back to transformers' own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import nn

from raydsinfer.engines.continuous import bloom
from raydsinfer.engines.continuous.compiling import CompiledLayers
from raydsinfer.errors import UnsupportedError

IMPLEMENTATION = "raydsinfer_paged"
"""Name of our attention among transformers' implementations."""

# What some families pass beside queries, keys and values, and the paged attention has no answer to.
_FOREIGN = ("softcap", "s_aux", "position_bias", "head_mask")


class LayerAttention(Protocol):
    """What takes the place of a layer's attention."""

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """Attend from all tokens of a packed step.

        Args:
            layer: Index of the decoder layer.
            query: (tokens, heads, head size).
            key: (tokens, key-value heads, head size).
            value: (tokens, key-value heads, head size).
            scale: Factor on the products of queries and keys.
            window: Tokens back that a token sees, itself included; None for all.

        Returns:
            (tokens, heads, head size).
        """
        ...


class Routes:
    """The routes of one model. `attention` is set for each step.

    Args:
        model: A transformers model; its attention modules keep a reference to this.

    Raises:
        UnsupportedError: Some attention of the model is of a kind that is not known here.
    """

    def __init__(self, model: nn.Module) -> None:
        from transformers import AttentionInterface

        AttentionInterface.register(IMPLEMENTATION, _interface)
        self.attention: LayerAttention | None = None
        self._configs: dict[int, Any] = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
        self._own = {key: config._attn_implementation for key, config in self._configs.items()}
        layers = [module for module in model.modules() if _is_attention(module)]
        if not layers:
            raise UnsupportedError(
                what=f"continuous batching of {type(model).__name__}",
                why="it has no attention that can be led elsewhere",
                instead="Use batching='static'.",
            )
        for module in layers:
            module.paged_routes = self  # type: ignore[assignment]
            if hasattr(module, "_attn"):
                _take_over_attn(module)
            elif bloom.is_bloom_attention(module):
                bloom.lead(module, _attend)
        bloom.spare_biases(model, lambda: self.attention is not None)
        self.num_layers = len(layers)
        self._compiled = CompiledLayers(model)

    def compile(self) -> None:
        """Run decoder layers through `torch.compile` from now on, while attention is led here."""
        self._compiled.compile()

    def stop_compiling(self) -> None:
        """Run decoder layers as they are again."""
        self._compiled.give_up()

    @contextmanager
    def to(self, attention: LayerAttention, *, compiled: bool = False) -> Iterator[None]:
        """While this lasts the model's attention is `attention`.

        Args:
            attention: Of a step.
            compiled: Whether to use compiled layers, if there are any.
        """
        self.attention = attention
        for config in self._configs.values():
            config._attn_implementation = IMPLEMENTATION
        try:
            with self._compiled if compiled else nullcontext():
                yield
        finally:
            self.attention = None
            for key, config in self._configs.items():
                config._attn_implementation = self._own[key]


def _interface(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """The signature of transformers' attention functions: heads before tokens in, tokens before heads out."""
    if foreign := [name for name in _FOREIGN if others.get(name) is not None]:
        raise UnsupportedError(
            what=f"continuous batching of {type(module).__name__}",
            why=f"its attention uses {foreign[0]}",
            instead="Use batching='static'.",
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _attend(module, query, key, value, scale, sliding_window).unsqueeze(0), None


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
) -> torch.Tensor:
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    attended: torch.Tensor = module.paged_routes.attention.attend(
        _layer_index(module), query, key, value, scale=scale, window=window
    )
    return attended


def _take_over_attn(module: Any) -> None:
    """GPT-J and GPT-Neo do not ask transformers' interface: they call a method of their own."""
    own = module._attn
    scale = 1 / float(module.scale_attn) if hasattr(module, "scale_attn") else 1.0
    window = module.config.window_size if getattr(module, "attention_type", "global") == "local" else None

    def attn(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any = None) -> Any:
        if module.paged_routes.attention is None:
            return own(query, key, value, attention_mask)
        return _attend(module, query, key, value, scale, window).transpose(0, 1).unsqueeze(0), None

    module._attn = attn


def _layer_index(module: Any) -> int | None:
    index = getattr(module, "layer_idx", getattr(module, "layer_id", None))
    return index if isinstance(index, int) else None


def _is_attention(module: nn.Module) -> bool:
    """Whether a module attends itself. Decoder layers, and wrappers around attention, know their index too."""
    return _knows_attention(module) and not any(
        _knows_attention(inner) for inner in module.modules() if inner is not module
    )


def _knows_attention(module: nn.Module) -> bool:
    return "Attention" in type(module).__name__ and _layer_index(module) is not None
