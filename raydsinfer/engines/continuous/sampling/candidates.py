"""Sampling among the most likely tokens: functions of tensors, one for each of transformers' warpers.

Candidates lie in descending order of their scores, the lower token id first among equals. Probabilities are
whole numbers, their sums are exact, and so a row's token does not depend on how many candidates its neighbours
need, nor on the order in which a device adds. Shapes never depend on the tensors' contents.
Meaning after transformers 5.23, `generation/logits_process.py`, with one token always kept.
"""

from __future__ import annotations

import torch

from raydsinfer.engines.continuous.sampling import streams
from raydsinfer.engines.continuous.sampling.settings import Fractions, Integers, Passes

_ONE = 2.0**43
"""The weight of the most likely token: a row of less than 2**20 of them fits 64 bits. What is 2**43 times less likely
weighs nothing."""

MAX_VOCAB_SIZE = 2**20 - 1


def choose(
    scores: torch.Tensor,
    positions: torch.Tensor,
    whole: Integers[torch.Tensor],
    other: Fractions[torch.Tensor],
    passes: Passes,
) -> torch.Tensor:
    """Tokens, int64 (rows,): drawn in rows that sample, the most likely one in the others.

    Args:
        scores: float32 (rows, vocabulary).
        positions: Of the new tokens, int64 (rows,).
        whole: The rows' settings.
        other: The rows' other settings.
        passes: What they need together.
    """
    weights, ids = weigh_candidates(scores, whole, other, passes)
    ranks = draw(weights, streams.uniform(whole.seed, positions))
    # A greedy row's token is the first candidate: among equals the lowest id, as argmax has it.
    return ids.gather(1, (ranks * whole.do_sample)[:, None]).squeeze(1)


def weigh_candidates(
    scores: torch.Tensor, whole: Integers[torch.Tensor], other: Fractions[torch.Tensor], passes: Passes
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities up to a factor, and token ids of the candidates: int64 (rows, candidates).

    Args:
        scores: float32 (rows, vocabulary).
        whole: The rows' settings.
        other: The rows' other settings.
        passes: What they need together.
    """
    values, ids = most_likely(scores, passes.num_candidates)
    # Division keeps the order, so it can wait until there are few candidates.
    values = values / other.temperature.to(values.dtype)[:, None]
    weights = weigh(values, among_top_k(values, whole.top_k, whole.num_candidates))
    if passes.top_p:
        weights = keep_top_p(weights, other.top_p)
    if passes.min_p:
        weights = keep_min_p(weights, other.min_p)
    if passes.typical_p:
        weights = keep_typical(values, weights, other.typical_p)
    return weights, ids


def most_likely(scores: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and token ids of each row's first candidates: float32 and int64, (rows, number).

    Args:
        scores: float32 (rows, vocabulary).
        number: How many; all if it is more than there are.
    """
    size = scores.shape[1]
    if 4 * number >= size:
        values, ids = scores.sort(dim=1, descending=True, stable=True)
        return values[:, :number], ids[:, :number]
    # topk takes any of equals: keys hold the score's bits, in an order of integers, above the token's rank.
    bits = (scores + 0.0).view(torch.int32).to(torch.int64)  # + 0.0 makes one of the two zeros
    ranks = torch.arange(size - 1, -1, -1, device=scores.device)
    keys = (torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits) << 32) | ranks
    ids = size - 1 - (keys.topk(number, dim=1).values & 0xFFFFFFFF)
    return scores.gather(1, ids), ids


def among_top_k(values: torch.Tensor, top_k: torch.Tensor, num_candidates: torch.Tensor) -> torch.Tensor:
    """Which candidates are no less likely than the k-th: bool (rows, candidates) (TopKLogitsWarper).

    Args:
        values: Scores of candidates, (rows, candidates).
        top_k: int64 (rows,), from 1 to the number of candidates.
        num_candidates: The row's own, int64 (rows,): others are there for its neighbours.
    """
    ranks = torch.arange(values.shape[1], device=values.device)
    return (values >= values.gather(1, top_k[:, None] - 1)) & (ranks < num_candidates[:, None])


def weigh(values: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Probabilities up to a factor, int64 (rows, candidates); 0 for those that are not kept.

    Args:
        values: Scores of candidates, float32 (rows, candidates).
        kept: bool (rows, candidates).
    """
    return (_relative(values).exp().masked_fill(~kept, 0.0).nan_to_num(0.0) * _ONE).to(torch.int64)


def _relative(values: torch.Tensor) -> torch.Tensor:
    """Scores less the first one, float64 (rows, candidates)."""
    values = values.to(torch.float64)
    return values - values[:, :1]


def keep_top_p(weights: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Weights without the least likely tokens that hold 1 - `top_p` together (TopPLogitsWarper).

    Args:
        weights: int64 (rows, candidates).
        top_p: float64 (rows,); 1 is neutral.
    """
    total = weights.sum(1, keepdim=True)
    from_here = total - weights.cumsum(1) + weights
    dropped = from_here <= (1 - top_p)[:, None] * total
    dropped[:, 0] = False
    return weights.masked_fill(dropped, 0)


def keep_min_p(weights: torch.Tensor, min_p: torch.Tensor) -> torch.Tensor:
    """Weights without tokens less likely than a share of the most likely one (MinPLogitsWarper).

    Args:
        weights: int64 (rows, candidates).
        min_p: float64 (rows,); 0 is neutral.
    """
    return weights.masked_fill(weights < min_p[:, None] * weights[:, :1], 0)


def keep_typical(values: torch.Tensor, weights: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """Weights of the tokens whose surprise is nearest to the expected one (TypicalLogitsWarper).

    Args:
        values: Scores of candidates, float32 (rows, candidates).
        weights: int64 (rows, candidates).
        mass: Probability that they hold, float64 (rows,); 1 is neutral.
    """
    total, there = weights.sum(1, keepdim=True), weights > 0
    surprise = (total / _ONE).log() - _relative(values)
    parts = (surprise * weights / total).masked_fill(~there, 0.0)
    expected = (parts * _ONE).to(torch.int64).sum(1, keepdim=True) / _ONE
    distance = (surprise - expected).abs().masked_fill(~there, torch.inf)
    nearest, order = distance.sort(dim=1, stable=True)
    held = weights.gather(1, order).cumsum(1)
    last = (held < mass[:, None] * total).sum(1, keepdim=True).clamp(max=weights.shape[1] - 1)
    return weights.masked_fill(distance > nearest.gather(1, last), 0)


def draw(weights: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Ranks of the drawn candidates, int64 (rows,): where the running sum passes a share of the total.

    Args:
        weights: int64 (rows, candidates); the first candidate is drawn if they are all 0.
        numbers: In [0, 1), float64 (rows,).
    """
    sums = weights.cumsum(1)
    total = sums[:, -1:]
    # Rounding could reach the total, which no running sum passes.
    below = torch.minimum((numbers[:, None] * total).to(torch.int64), total - 1)
    return (sums <= below).sum(1)
