"""What the gate checks: a loaded engine, seen from one rank."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.engines.base import Completion, EngineSpec, RankContext
from raydsinfer.engines.generation import as_list
from raydsinfer.engines.verification.canaries import Canary, canary_batches
from raydsinfer.engines.verification.ladder import Rung

Answer = Callable[[Sequence[Sequence[int]], GenerationConfig], list[Completion]]
"""Prompts that go to the engine together, and their settings → a completion each."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A loaded engine that is to be checked; the same on every rank but for `answer` and the context.

    Args:
        spec: What it was made from.
        context: Where this rank stands.
        original: Directory of the model as it came.
        loaded: Directory that the weights were read from.
        rung: How the model runs.
        dtype: Of its weights and activations.
        vocab_size: Tokens of the model.
        generation_config: The model's own, a `transformers` object: its special tokens.
        answer: Generates.
        on_layer: Called after each decoder layer of the reference.
    """

    spec: EngineSpec
    context: RankContext
    original: Path
    loaded: Path
    rung: Rung
    dtype: torch.dtype
    vocab_size: int
    generation_config: Any
    answer: Answer
    on_layer: Callable[[], None] = lambda: None

    @property
    def config(self) -> EngineConfig:
        """Inference settings."""
        return self.spec.config

    @property
    def dtype_name(self) -> str:
        """``float32``, ``float16`` or ``bfloat16``."""
        return str(self.dtype).removeprefix("torch.")

    def batches(self) -> list[list[Canary]]:
        """The canaries for it."""
        own = self.generation_config
        special = [as_list(token) for token in (own.bos_token_id, own.eos_token_id, own.pad_token_id)]
        return canary_batches(
            vocab_size=self.vocab_size,
            special_ids={token for tokens in special for token in tokens},
            max_tokens=self.config.max_tokens,
            max_batch_size=self.config.max_batch_size,
            on_cpu=self.context.device == "cpu",
        )

    def forbidden(self, num_new_tokens: int) -> list[Collection[int]]:
        """For each new token what cannot be chosen.

        An end, because the canaries are of a fixed length, and what the model's own settings suppress. They may also
        force the last token.
        """
        own = self.generation_config
        always = {*as_list(own.eos_token_id), *as_list(own.suppress_tokens)}
        forbidden: list[Collection[int]] = [always] * num_new_tokens
        forbidden[0] = always | set(as_list(own.begin_suppress_tokens))
        every = set(range(self.vocab_size))
        if forced := as_list(own.forced_eos_token_id):
            forbidden[-1] = every - set(forced)
        return [every.intersection(tokens) for tokens in forbidden]  # some models name ends that they do not have
