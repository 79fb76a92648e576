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
    is_whole,
    merged,
    within,
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


def test_a_part_of_what_was_cut_out() -> None:
    cut = Slice(0, ((24, 36), (0, 12)))
    assert within(Slice(0, ((0, 12),)), cut, (48, 3)) == Slice(0, ((12, 24),))
    assert within(Slice(0, ((30, 32), (2, 4), (24, 26))), cut, (48, 3)) == Slice(0, ((6, 8), (14, 16), (0, 2)))
    # Neighbours in the tensor that are none in what is stored.
    assert within(Slice(0, ((2, 8),)), Slice(0, ((4, 8), (0, 4))), (16, 3)) == Slice(0, ((6, 8), (0, 4)))
    assert within(Slice(0, ((24, 36), (0, 12))), cut, (48, 3)) == WHOLE
    assert within(Slice(1, ((0, 1),)), Slice(0, ((0, 48),)), (48, 3)) == Slice(1, ((0, 1),))


@pytest.mark.parametrize("part", [Slice(0, ((10, 13),)), Slice(0, ((40, 44),)), Slice(1, ((0, 1),)), WHOLE])
def test_a_part_that_was_not_cut_out(part: Slice) -> None:
    assert within(part, Slice(0, ((24, 36), (0, 12))), (48, 3)) is None


@given(part=RANGES, cut=RANGES)
def test_a_part_is_found_exactly_where_all_of_it_is_stored(
    part: list[tuple[int, int]], cut: list[tuple[int, int]]
) -> None:
    wanted, stored = Slice(0, tuple(part)), Slice(0, tuple(cut))
    found, kept = within(wanted, stored, (8,)), indices(stored, 8)
    assert (found is None) == (not set(indices(wanted, 8)) <= set(kept))
    if found is not None:
        assert [kept[i] for i in indices(found, len(kept))] == indices(wanted, 8)
