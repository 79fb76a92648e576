"""What the gate found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Source = Literal["transformers", "golden", "remembered"]


@dataclass(frozen=True, kw_only=True)
class CanaryResult:
    """One canary.

    Args:
        name: What it tries.
        num_prompt_tokens: Tokens of its prompt.
        num_new_tokens: Tokens that were generated.
        largest_gap: Largest difference of a log-probability from the reference.
        allowed_gap: What rounding explains.
        num_ties: Tokens that are not the reference's most likely one, but within its rounding as likely.
        problem: What is wrong; empty if nothing is.
    """

    name: str
    num_prompt_tokens: int
    num_new_tokens: int
    largest_gap: float = 0.0
    allowed_gap: float = 0.0
    num_ties: int = 0
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class VerificationReport:
    """What the gate found on one rung.

    Args:
        rung: How the model ran.
        source: What it was compared with; ``remembered``: nothing was done, because it was right here before.
        canaries: Of each what was found.
        seconds: What all of it took, on rank 0.
        golden: What a golden file holds: plain values, for JSON.
    """

    rung: str
    source: Source
    canaries: tuple[CanaryResult, ...] = ()
    seconds: float = 0.0
    golden: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def problems(self) -> tuple[str, ...]:
        """A line for each canary that is wrong."""
        return tuple(f"{canary.name}: {canary.problem}" for canary in self.canaries if canary.problem)
