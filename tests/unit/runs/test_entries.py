"""Sorted keys: the same answers as a dictionary, whatever the keys are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydsinfer.runs.entries import FAILED, Bucket, bucket_bytes, bucket_of, entries_of, key_numbers, unique

# Few different bytes, so that keys share their first and their second halves.
KEYS = st.lists(st.binary(min_size=2, max_size=2).map(lambda b: bytes([b[0] % 3] * 8 + [b[1] % 3] * 8)), max_size=30)


@settings(deadline=None)
@given(KEYS, KEYS, st.data())
def test_a_search_finds_what_is_there(keys: list[bytes], others: list[bytes], data: st.DataObject) -> None:
    failed = data.draw(st.lists(st.booleans(), min_size=len(keys), max_size=len(keys)))
    entries = entries_of(keys, failed)
    bucket = Bucket.over(bucket_bytes(entries), len(entries))
    assert (bucket.entries() == entries).all()
    at = bucket.search(*key_numbers(others + keys))
    for key, position in zip(others + keys, at, strict=True):
        assert (position >= 0) == (key in keys)
        if position >= 0:
            row = int(bucket.row[position] & ~FAILED)
            assert keys[row] == key
            assert bool(bucket.row[position] & FAILED) == failed[row]


@settings(deadline=None)
@given(KEYS)
def test_each_key_is_there_once_in_the_order_of_bytes(keys: list[bytes]) -> None:
    entries = entries_of(keys, [False] * len(keys))
    high, low = entries["high"].astype(">u8"), entries["low"].astype(">u8")
    assert [h.tobytes() + k.tobytes() for h, k in zip(high, low, strict=True)] == sorted(set(keys))


def test_an_answer_goes_before_a_failure_and_a_later_part_before_an_earlier() -> None:
    one, two, three = (bytes([i]) * 16 for i in (1, 2, 3))
    parts = []
    for number, failed in enumerate([[False, True, True], [True, False, True], [True, False, True]]):
        entries = entries_of([one, two, three], failed)
        entries["part"] = number
        parts.append(entries)
    merged = unique(np.concatenate(parts))
    assert merged["part"].tolist() == [0, 2, 2]
    assert (merged["row"] >= FAILED).tolist() == [False, False, True]


@settings(deadline=None)
@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1), st.integers(0, 12))
def test_buckets_are_by_the_first_bits(keys: list[bytes], num_bits: int) -> None:
    buckets = bucket_of(key_numbers(keys)[0], num_bits)
    assert buckets.tolist() == [int.from_bytes(key, "big") >> (128 - num_bits) for key in keys]


def test_keys_have_one_size() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        key_numbers([b"short"])
    with pytest.raises(ValueError, match="16 bytes"):
        key_numbers([b"a" * 15, b"b" * 17])
