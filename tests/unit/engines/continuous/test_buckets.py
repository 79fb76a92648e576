from __future__ import annotations

import pytest

from raydsinfer.engines.continuous.buckets import batch_buckets, fitting, length_bucket


@pytest.mark.parametrize("max_running", [1, 2, 3, 8, 9, 63, 64, 200, 256, 257, 1000])
def test_batch_sizes_ascend_to_the_largest_and_fit_closely(max_running: int) -> None:
    buckets = batch_buckets(max_running)
    assert buckets == sorted(set(buckets))
    assert buckets[0] == 2  # compiled layers have one form for one token and another for more
    assert buckets[-1] == max(2, max_running)
    for size in range(1, max_running + 1):
        bucket = fitting(buckets, size)
        assert bucket is not None
        assert size <= bucket <= max(size + 63, size * 2)


def test_more_rows_than_any_bucket_holds() -> None:
    assert fitting([1, 2, 4], 4) == 4
    assert fitting([1, 2, 4], 5) is None


@pytest.mark.parametrize(
    ("longest", "max_tokens", "expected"),
    [
        (1, 1024, 128),
        (128, 1024, 128),
        (129, 1024, 256),
        (700, 1024, 1024),
        (700, 1000, 1000),
        (1000, 1000, 1000),
        (5, 60, 60),
    ],
)
def test_lengths_double_up_to_the_longest_possible(longest: int, max_tokens: int, expected: int) -> None:
    assert length_bucket(longest, max_tokens) == expected
