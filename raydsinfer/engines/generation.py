"""Between requests and `transformers`' generate: padding, settings, and reading the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.base import Completion


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both (batch, longest prompt), padded on the left."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


def generate_arguments(generation: GenerationConfig, pad_id: int, use_cache: bool) -> dict[str, Any]:
    """Arguments for transformers' `generate`.

    All of ours are passed, so that sampling defaults in the model's `generation_config.json` do not
    change what a user asked for; its token ids (end of sequence, suppressed tokens) do count.
    """
    arguments: dict[str, Any] = {
        "max_new_tokens": generation.max_new_tokens,
        "min_new_tokens": generation.min_new_tokens,
        "do_sample": generation.do_sample,
        "repetition_penalty": generation.repetition_penalty,
        "no_repeat_ngram_size": generation.no_repeat_ngram_size,
        "num_beams": generation.num_beams,
        "num_return_sequences": generation.num_return_sequences,
        "pad_token_id": pad_id,
        "use_cache": use_cache,
    }
    if generation.do_sample:
        names = ("temperature", "top_k", "top_p", "min_p", "typical_p")
        arguments |= {name: getattr(generation, name) for name in names}
    if generation.num_beams > 1:
        arguments |= {"length_penalty": generation.length_penalty, "early_stopping": generation.early_stopping}
    return arguments


def read_completion(
    token_ids: Sequence[int], eos_ids: set[int], pad_id: int, max_new_tokens: int, stopped_by_text: bool
) -> Completion:
    """One answer from a row of `generate`'s output, without the padding behind it.

    Args:
        token_ids: New tokens of the row, padded to the longest of the batch.
        eos_ids: Tokens that end a sequence.
        pad_id: What the row is padded with; may be one of `eos_ids`.
        max_new_tokens: The limit that was given.
        stopped_by_text: Whether a stop string ended the row; then no end-of-sequence token belongs to it.
    """
    ids = list(token_ids)
    end = next((i for i, token in enumerate(ids) if token in eos_ids), None)
    if stopped_by_text:
        while ids and ids[-1] in (eos_ids | {pad_id}):
            ids.pop()
        return Completion(tuple(ids), "stop")
    if end is not None:
        return Completion(tuple(ids[: end + 1]), "stop")
    return Completion(tuple(ids), "length" if len(ids) >= max_new_tokens else "stop")
