"""What plain transformers says of some tokens: the measure of the gate."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

NUM_BEST = 16
"""Tokens of which the reference knows the probability, at each step."""

# Rounding to reckon with at least, as a share of the largest logit: sums over ranks are added in another order.
_LEAST_ROUNDING = {"float32": 5e-6, "float16": 2.5e-4, "bfloat16": 2e-3}


@dataclass(frozen=True, kw_only=True)
class ReferenceStep:
    """One new token.

    Args:
        best_ids: The most likely of the tokens that may come here, most likely first.
        best_logprobs: Natural logarithms of their probabilities among all tokens, in float32.
        rounding: How far log-probabilities in the gang's dtype are from those in float32: the root of the mean
            square over all tokens.
    """

    best_ids: tuple[int, ...]
    best_logprobs: tuple[float, ...]
    rounding: float

    def logprob(self, token_id: int) -> float | None:
        """Of a token, if it is among the best."""
        known = dict(zip(self.best_ids, self.best_logprobs, strict=True))
        return known.get(token_id)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The steps of one canary.

    Args:
        token_ids: The new tokens that were read: each step's probabilities are those after the tokens before it.
        steps: As many.
    """

    token_ids: tuple[int, ...]
    steps: tuple[ReferenceStep, ...]


def reference_of(
    token_ids: Sequence[int],
    exact: torch.Tensor,
    rounded: torch.Tensor | None,
    *,
    dtype: str,
    forbidden: Sequence[Collection[int]],
) -> Reference:
    """Read a canary's reference off logits.

    Args:
        token_ids: Its new tokens.
        exact: Logits of the position before each, in float32, (tokens, vocabulary).
        rounded: The same in the dtype of the gang; None if that is float32.
        dtype: Of the gang.
        forbidden: For each step the tokens that must not come there.
    """
    steps = []
    for index in range(len(token_ids)):
        logits = exact[index].float()
        largest = float(logits.abs().max())
        logprobs = logits.log_softmax(dim=-1)
        rounding = 0.0
        if rounded is not None:
            rounding = float((rounded[index].float().log_softmax(dim=-1) - logprobs).square().mean().sqrt())
        logprobs[sorted(forbidden[index])] = -math.inf
        best = logprobs.topk(min(NUM_BEST, logprobs.numel()))
        known = [(i, v) for i, v in zip(best.indices.tolist(), best.values.tolist(), strict=True) if v > -math.inf]
        steps.append(
            ReferenceStep(
                best_ids=tuple(token for token, _ in known),
                best_logprobs=tuple(value for _, value in known),
                rounding=max(rounding, _LEAST_ROUNDING[dtype] * largest),
            )
        )
    return Reference(token_ids=tuple(token_ids), steps=tuple(steps))
