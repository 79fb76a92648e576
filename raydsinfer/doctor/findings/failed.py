"""A probe that gave no answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ProbeFailed:
    """A probe that gave no answer.

    Args:
        reason: An exception, a signal, or that time was up.
        output: The last lines that it wrote.
        timed_out: Whether time was up.
    """

    reason: str
    output: str = ""
    timed_out: bool = False

    @property
    def last_line(self) -> str:
        """Of the output, if it says more than the reason."""
        lines = self.output.splitlines()
        return lines[-1] if lines and self.reason not in lines[-1] else ""

    def cure(self, broken: str) -> str:
        """What to do.

        Args:
            broken: What to do if it is not just slow.
        """
        return f"If it is only slow, give it longer: --timeout. {broken}".strip() if self.timed_out else broken
