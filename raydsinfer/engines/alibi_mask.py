"""A mask for BLOOM in every forward pass, without which its heads get each other's slopes on several ranks.

DeepSpeed cuts alibi in the function that makes it from a mask. But transformers' `generate` leaves out a mask that
hides nothing, and without one the model makes alibi by itself, for the heads of all ranks.
"""

from __future__ import annotations

from typing import Any

import torch


def always_mask(model: Any) -> None:
    """Give a BLOOM model a mask of ones wherever it is called without.

    Args:
        model: Of transformers, with a language modelling head.
    """
    model.base_model.register_forward_pre_hook(_with_mask, with_kwargs=True)


def _with_mask(
    module: torch.nn.Module, args: tuple[Any, ...], arguments: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if arguments.get("attention_mask") is None:
        token_ids = args[0] if args else arguments["input_ids"]
        cache = arguments.get("past_key_values")
        seen = 0 if cache is None else cache.get_seq_length()
        ones = token_ids.new_ones(token_ids.shape[0], seen + token_ids.shape[1])
        arguments = {**arguments, "attention_mask": ones}
    return args, arguments
