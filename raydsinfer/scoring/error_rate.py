"""Whether so many rows failed that the job had better end: pure."""

from __future__ import annotations

from raydsinfer.errors import ErrorRateError
from raydsinfer.groups.row_counts import RowCounts

ENOUGH_ROWS = 100
"""Rows before the share of errors means anything: a job may begin with its bad rows."""


def check_error_rate(counts: RowCounts, limit: float | None) -> None:
    """Look at what a job has so far.

    Args:
        counts: Rows of all its gangs.
        limit: `RecoveryConfig.max_error_rate`.

    Raises:
        ErrorRateError: The share of rows that failed is above the limit.
    """
    if limit is None or counts.num_rows < ENOUGH_ROWS or counts.num_errors <= limit * counts.num_rows:
        return
    raise ErrorRateError(num_rows=counts.num_rows, num_errors=counts.num_errors, limit=limit, example=counts.example)
