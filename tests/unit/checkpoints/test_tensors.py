from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from raydsinfer.checkpoints.tensors import (
    FORMAT_NAMES,
    ITEM_BYTES,
    WHOLE,
    Slice,
    fits,
    in_words,
    inside,
    is_whole,
    merged,
)

RANGES = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)).map(lambda p: (min(p), max(p))), max_size=6)


def indices(part: Slice, size: int) -> list[int]:
    return list(range(size)) if part.dim is None else [i for a, b in part.ranges for i in range(a, b)]


@pytest.mark.parametrize("dtype", [name for name in ITEM_BYTES if hasattr(torch, name)])
def test_dtypes_are_those_of_safetensors(dtype: str) -> None:
    content = save({"t": torch.zeros(3, dtype=getattr(torch, dtype))})
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["t"]["dtype"] == FORMAT_NAMES[dtype]
    assert header["t"]["data_offsets"] == [0, 3 * ITEM_BYTES[dtype]]


@given(one=RANGES, two=RANGES)
def test_parts_are_equal_when_merged_exactly_if_they_keep_the_same(
    one: list[tuple[int, int]], two: list[tuple[int, int]]
) -> None:
    a, b = Slice(0, tuple(one)), Slice(0, tuple(two))
    assert (merged(a, (8,)) == merged(b, (8,))) == (indices(a, 8) == indices(b, 8))
    assert indices(merged(a, (8,)), 8) == indices(a, 8)
    assert is_whole(a, (8,)) == (indices(a, 8) == list(range(8)))


@given(part=RANGES, cut=RANGES)
def test_where_a_part_lies_in_what_was_cut_out(part: list[tuple[int, int]], cut: list[tuple[int, int]]) -> None:
    wanted, stored = Slice(0, tuple(part)), Slice(0, tuple(cut))
    here, have = inside(wanted, stored, (8,)), indices(stored, 8)
    if here is not None:
        found = have if here.dim is None else [have[i] for i in indices(here, len(have))]
        assert found == indices(wanted, 8)
    else:
        # Each range of the part has to lie within one of the ranges that were cut out.
        needed = merged(wanted, (8,)).ranges or ((0, 8),)
        assert not all(any(a <= c and d <= b for a, b in merged(stored, (8,)).ranges) for c, d in needed)


@pytest.mark.parametrize(
    ("part", "fitting"),
    [
        (WHOLE, True),
        (Slice(1, ((0, 3),)), True),
        (Slice(1, ()), True),
        (Slice(1, ((0, 4),)), False),
        (Slice(1, ((2, 1),)), False),
        (Slice(1, ((-1, 1),)), False),
        (Slice(2, ((0, 1),)), False),
    ],
)
def test_a_part_fits_if_the_tensor_has_it(part: Slice, fitting: bool) -> None:
    assert fits(part, (2, 3)) == fitting


def test_parts_in_words() -> None:
    assert in_words(WHOLE) == "the whole"
    assert in_words(Slice(1, ((0, 4), (6, 8)))) == "indices 0 to 4, 6 to 8 along dimension 1"
    assert in_words(Slice(0, ())) == "indices none along dimension 0"
