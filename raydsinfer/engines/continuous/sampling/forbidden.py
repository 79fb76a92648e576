"""Tokens that the model's own settings, or `min_new_tokens`, forbid at a position."""

from __future__ import annotations

from collections.abc import Collection

import torch

from raydsinfer.engines.continuous.sampling.logits import forbid_tokens_
from raydsinfer.engines.continuous.sampling.settings import Integers, Passes


class Forbidden:
    """Which tokens may not stand where; those that the model does not score are left out.

    Args:
        vocab_size: Columns of the logits.
        device: torch device as a string.
        eos_ids: Tokens that end a sequence: not before a row's `min_new_tokens`.
        suppress: Tokens that are never generated.
        begin_suppress: Tokens that are never generated first.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        device: str,
        eos_ids: Collection[int],
        suppress: Collection[int],
        begin_suppress: Collection[int],
    ) -> None:
        given = (eos_ids, suppress, begin_suppress)
        scored = [sorted({token for token in token_ids if 0 <= token < vocab_size}) for token_ids in given]
        self._eos, self._always, self._first = (torch.tensor(ids, device=device) if ids else None for ids in scored)

    def concerns(self, passes: Passes) -> bool:
        """Whether rows that need this have forbidden tokens at all."""
        return passes.min_new_tokens or self._always is not None or self._first is not None

    def apply_(self, scores: torch.Tensor, whole: Integers[torch.Tensor], positions: torch.Tensor) -> torch.Tensor:
        """In place, and given back: scores without what is forbidden. Can be captured in a CUDA graph.

        Args:
            scores: (rows, vocabulary), of any floating type.
            whole: The rows' settings.
            positions: Of the new tokens, int64 (rows,).
        """
        if self._eos is not None:
            forbid_tokens_(scores, self._eos, positions < whole.first_end)
        if self._always is not None:
            forbid_tokens_(scores, self._always, torch.ones_like(positions, dtype=torch.bool))
        if self._first is not None:
            forbid_tokens_(scores, self._first, positions == whole.num_prompt)
        return scores
