"""When a job that fails wholesale ends."""

from __future__ import annotations

import pytest

from raydsinfer.errors import ErrorRateError
from raydsinfer.groups.row_counts import RowCounts
from raydsinfer.scoring.error_rate import check_error_rate


def counts(num_rows: int, num_errors: int) -> RowCounts:
    return RowCounts(num_rows=num_rows, num_errors=num_errors, example="prompt: it is empty")


@pytest.mark.parametrize(
    ("num_rows", "num_errors", "limit"), [(99, 99, 0.0), (100, 10, 0.1), (1000, 999, None), (100, 0, 0.0)]
)
def test_jobs_that_go_on(num_rows: int, num_errors: int, limit: float | None) -> None:
    check_error_rate(counts(num_rows, num_errors), limit)


@pytest.mark.parametrize(("num_rows", "num_errors", "limit"), [(100, 11, 0.1), (100, 1, 0.0), (5000, 4999, 0.99)])
def test_jobs_that_end(num_rows: int, num_errors: int, limit: float) -> None:
    with pytest.raises(ErrorRateError, match=f"{num_errors} of {num_rows} rows failed .* prompt: it is empty"):
        check_error_rate(counts(num_rows, num_errors), limit)
