"""One packed forward of a transformers model: token ids in, logits of the wanted places out."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from raydsinfer.engines.continuous.routing import LayerAttention, Routes

# OPT-13b and Llama-8B on an H100: a step takes Python 50 ms layer by layer, and up to 90 ms compiled; the device has
# that much to do with about 2,000 tokens.
_LARGE_TOKENS = 2000


class Forward:
    """A transformers model that reads packed steps.

    Args:
        model: The model.
        routes: Lead its attention to the paged cache.
    """

    def __init__(self, model: nn.Module, routes: Routes) -> None:
        self._model: Any = model
        self._routes = routes
        self._arguments = set(inspect.signature(model.forward).parameters)

    def __call__(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        attention: LayerAttention,
        sampled: torch.Tensor | None = None,
        *,
        compiled: bool = False,
    ) -> torch.Tensor:
        """Run the model once.

        Args:
            token_ids: int64 (tokens,).
            positions: Each token's position in its sequence, int64 (tokens,).
            attention: Of this step.
            sampled: Places whose logits are wanted, int64 (sampled,); None: all.
            compiled: Whether to use compiled layers, if there are any, also in a step of few tokens. To start a
                compiled layer takes Python longer than its kernels one by one, so it pays where the step is
                captured, or so large that the device is the slower one.

        Returns:
            Logits (sampled, vocabulary).
        """
        arguments: dict[str, Any] = {"use_cache": False, "return_dict": True}
        if sampled is not None and "logits_to_keep" in self._arguments:
            arguments["logits_to_keep"] = sampled
        compiled = compiled or len(token_ids) >= _LARGE_TOKENS
        with self._routes.to(attention, compiled=compiled):
            logits: torch.Tensor = self._model(
                input_ids=token_ids[None], position_ids=positions[None], **arguments
            ).logits[0]
        if sampled is not None and "logits_to_keep" not in self._arguments:
            return logits[sampled]
        return logits
