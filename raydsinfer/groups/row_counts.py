"""How many rows of a job there were so far, and how many failed: pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RowCounts:
    """Rows of all gangs of a job.

    Args:
        num_rows: Rows that were answered or failed.
        num_errors: Those that failed.
        example: The error of the first that failed; empty if none did.
    """

    num_rows: int = 0
    num_errors: int = 0
    example: str = ""

    def plus(self, num_rows: int, num_errors: int, example: str) -> RowCounts:
        """These and some more; arguments as above."""
        return RowCounts(
            num_rows=self.num_rows + num_rows,
            num_errors=self.num_errors + num_errors,
            example=self.example or (example if num_errors else ""),
        )
