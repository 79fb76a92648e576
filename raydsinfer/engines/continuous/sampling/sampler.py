"""From logits to tokens, on the device, for rows with different settings."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.continuous.sampling import candidates
from raydsinfer.engines.continuous.sampling.forbidden import Forbidden
from raydsinfer.engines.continuous.sampling.logits import (
    forbid_repeated_ngrams,
    log_probabilities,
    penalise_repetition,
)
from raydsinfer.engines.continuous.sampling.settings import Passes
from raydsinfer.engines.continuous.sampling.slots import SlotTable
from raydsinfer.errors import UnsupportedError


@dataclass(frozen=True, slots=True)
class Sampled:
    """New tokens of a step.

    Args:
        tokens: int64 (rows,).
        logprobs: Their log-probabilities by the model's logits, before penalties, temperature and the like:
            float32 (rows,). None if no row wants them.
    """

    tokens: torch.Tensor
    logprobs: torch.Tensor | None = None


class Sampler:
    """Chooses each row's next token, in the order of transformers' processors.

    Nothing here waits for the device, and no shape depends on what lies there. A row's token depends on its
    logits, its tokens, its settings and its seed only.

    Args:
        num_slots: Slots that sequences take, 0 to `num_slots` - 1. Slot `num_slots` is for rows of padding.
        max_tokens: Tokens of the longest sequence, prompt and new ones together.
        vocab_size: Columns of the logits.
        device: torch device as a string.
        eos_ids: Tokens that end a sequence.
        suppress: Tokens that are never generated.
        begin_suppress: Tokens that are never generated first.

    Raises:
        UnsupportedError: More tokens than can be weighed.
    """

    def __init__(
        self,
        *,
        num_slots: int,
        max_tokens: int,
        vocab_size: int,
        device: str,
        eos_ids: Collection[int],
        suppress: Collection[int] = (),
        begin_suppress: Collection[int] = (),
    ) -> None:
        if vocab_size > candidates.MAX_VOCAB_SIZE:
            raise UnsupportedError(
                what=f"continuous batching with a vocabulary of {vocab_size} tokens",
                why=f"probabilities are summed in 64 bits, which holds {candidates.MAX_VOCAB_SIZE}",
                instead="Use batching='static'.",
            )
        self._table = SlotTable(num_slots=num_slots, max_tokens=max_tokens, vocab_size=vocab_size, device=device)
        self._forbidden = Forbidden(
            vocab_size=vocab_size, device=device, eos_ids=eos_ids, suppress=suppress, begin_suppress=begin_suppress
        )

    @property
    def history(self) -> torch.Tensor:
        """int64 (num_slots + 1, max_tokens + 1): the token at each position of each slot's sequence."""
        return self._table.history

    def admit(
        self, slot: int, token_ids: Sequence[int], num_prompt: int, generation: GenerationConfig, seed: int
    ) -> None:
        """A sequence takes a slot; nothing of the one before is left. The device learns of it by `flush`.

        Args:
            slot: Which.
            token_ids: Its prompt, and what was generated before it lost its slot.
            num_prompt: Tokens of the prompt.
            generation: Its settings.
            seed: Of its random stream; see `streams.child_seed` for several sequences of a request.

        Raises:
            InvalidSettingError: More tokens than `max_tokens`.
        """
        self._table.admit(slot, token_ids, num_prompt, generation, seed)

    def flush(self) -> None:
        """Copy admissions to the device: before a graph that holds `greedy` or reads `history` is replayed."""
        self._table.flush()

    def greedy(self, logits: torch.Tensor, slots: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Most likely tokens, int64 (rows,); can be captured in a CUDA graph.

        More than an argmax: `min_new_tokens` and suppressed tokens are heeded here, so that a captured step
        serves rows with them, too.

        Args:
            logits: (rows, vocabulary), of any floating type. Forbidden tokens are overwritten.
            slots: int64 (rows,).
            positions: Of the new tokens, int64 (rows,).
        """
        return self._forbidden.apply_(logits, self._table.integers(slots), positions).argmax(1)

    def record(self, slots: torch.Tensor, tokens: torch.Tensor, positions: torch.Tensor) -> None:
        """Write tokens into the history; can be captured in a CUDA graph. All are int64 (rows,)."""
        self.history.index_put_((slots, positions), tokens)

    def sample(
        self, logits: torch.Tensor, slots: torch.Tensor, positions: torch.Tensor, host_slots: Sequence[int]
    ) -> Sampled:
        """Choose and record the next tokens.

        Args:
            logits: (rows, vocabulary), of any floating type. If all rows are plain greedy, forbidden
                tokens are overwritten.
            slots: int64 (rows,); no slot twice, padding apart.
            positions: Of the new tokens, int64 (rows,), from 0 to `max_tokens`.
            host_slots: `slots` as the host knows them, with or without those of padding.
        """
        self.flush()
        passes = self._table.passes(host_slots)
        if not passes.plain_greedy:
            tokens = self._choose(logits, slots, positions, host_slots, passes)
        elif self._forbidden.concerns(passes):
            tokens = self.greedy(logits, slots, positions)
        else:
            tokens = logits.argmax(1)
        self.record(slots, tokens, positions)
        return Sampled(tokens, log_probabilities(logits, tokens) if passes.logprobs else None)

    def _choose(
        self,
        logits: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
        host_slots: Sequence[int],
        passes: Passes,
    ) -> torch.Tensor:
        whole = self._table.integers(slots)
        scores = logits.to(torch.float32, copy=True)
        if passes.reads_history:
            history = self._table.histories(slots, host_slots)
            if passes.penalty:
                penalty = self._table.fractions(slots).repetition_penalty
                scores = penalise_repetition(scores, history, positions, penalty)
            if passes.ngram_size:
                scores = forbid_repeated_ngrams(scores, history, positions, whole.ngram_size, passes.ngram_size)
        if self._forbidden.concerns(passes):
            scores = self._forbidden.apply_(scores, whole, positions)
        if not passes.num_candidates:
            return scores.argmax(1)
        return candidates.choose(scores, positions, whole, self._table.fractions(slots), passes)
