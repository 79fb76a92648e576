"""Whether a gang's tokens are the reference's: pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raydsinfer.engines.base import Completion
from raydsinfer.engines.verification.canaries import Canary
from raydsinfer.engines.verification.reference import Reference
from raydsinfer.engines.verification.report import CanaryResult

# By how much a log-probability may be off, and how much less likely than the best a token may be, in units of the
# reference's own rounding, which is the mean over all tokens: the gang rounds elsewhere, and some tokens more.
_MOST_ROUNDING = 6.0


def judge(canary: Canary, ranks: Sequence[Completion], reference: Reference) -> CanaryResult:
    """Compare what each rank answered to a canary with the reference.

    Where a token is not the reference's but as likely, the comparison ends if the reference has not read that token:
    what follows is another text.

    Args:
        canary: What was asked.
        ranks: The answer of each rank.
        reference: Of these tokens, or of those that a right gang gave.
    """
    own = ranks[0]
    most = _MOST_ROUNDING * max((step.rounding for step in reference.steps), default=0.0)
    worst, ties, problem = 0.0, 0, malformed(canary, ranks) or _unequal(ranks, most)
    for index, (token, step) in enumerate(zip(own.token_ids, reference.steps, strict=False)):
        if problem:
            break
        known = step.logprob(token)
        if known is None:
            best = f"the reference takes {step.best_ids[0]} there"
            problem = f"token {index}: {token} is not among the {len(step.best_ids)} most likely ones ({best})"
            break
        gap, below = abs(own.logprobs[index] - known), step.best_logprobs[0] - known
        worst = max(worst, gap)
        if token != step.best_ids[0]:
            ties += 1
            if below > _MOST_ROUNDING * step.rounding:
                problem = (
                    f"token {index}: {token} is less likely than {step.best_ids[0]} by {below:.4g} in log-probability, "
                    f"and rounding explains {_MOST_ROUNDING * step.rounding:.4g}"
                )
        if not problem and gap > most:
            problem = (
                f"token {index}: the log-probability of {token} is off by {gap:.4g}, and rounding explains {most:.4g}"
            )
        if token != reference.token_ids[index]:
            break
    return CanaryResult(
        name=canary.name,
        num_prompt_tokens=len(canary.token_ids),
        num_new_tokens=len(own.token_ids),
        largest_gap=worst,
        allowed_gap=most,
        num_ties=ties,
        problem=problem,
    )


def malformed(canary: Canary, ranks: Sequence[Completion]) -> str:
    """What is wrong with answers of ranks, whatever the reference says; empty if nothing is."""
    for rank, answer in enumerate(ranks):
        if len(answer.token_ids) != canary.num_new_tokens or len(answer.logprobs) != canary.num_new_tokens:
            return f"rank {rank} gave {len(answer.token_ids)} tokens instead of {canary.num_new_tokens}"
        for index, logprob in enumerate(answer.logprobs):
            if not math.isfinite(logprob):
                return f"token {index}: the logits of rank {rank} are not numbers (log-probability {logprob})"
    return ""


def _unequal(ranks: Sequence[Completion], most: float) -> str:
    """How another rank's answer differs from rank 0's."""
    for rank, answer in enumerate(ranks[1:], start=1):
        for index, (own, other) in enumerate(zip(ranks[0].token_ids, answer.token_ids, strict=True)):
            if own != other:
                return f"token {index}: rank 0 has {own} and rank {rank} has {other}"
            gap = abs(ranks[0].logprobs[index] - answer.logprobs[index])
            if gap > most:
                return f"token {index}: the log-probabilities of rank 0 and rank {rank} differ by {gap:.4g}"
    return ""
