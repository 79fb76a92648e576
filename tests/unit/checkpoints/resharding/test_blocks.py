"""Parts of tensors, block by block, are what torch cuts at once."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydsinfer.checkpoints.resharding.blocks import blocks, convert, raw_bytes
from raydsinfer.checkpoints.tensors import WHOLE, Slice
from tests.synthetic import part_of


@st.composite
def cuts(draw: st.DrawFn) -> tuple[tuple[int, ...], Slice]:
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    dim = draw(st.integers(0, len(shape) - 1))
    starts = st.integers(0, shape[dim] - 1)
    ranges = draw(st.lists(starts.flatmap(lambda a: st.tuples(st.just(a), st.integers(a + 1, shape[dim]))), max_size=3))
    return shape, Slice(dim, tuple(ranges)) if ranges else WHOLE


@settings(max_examples=200)
@given(cut=cuts(), block_bytes=st.integers(1, 200), transposed=st.booleans())
def test_blocks_joined_are_the_part(cut: tuple[tuple[int, ...], Slice], block_bytes: int, transposed: bool) -> None:
    shape, part = cut
    tensor = torch.arange(math.prod(shape), dtype=torch.int32).reshape(shape)
    if transposed:
        tensor = tensor.transpose(0, -1).contiguous().transpose(0, -1)
    found = b"".join(bytes(raw_bytes(block)) for block in blocks(tensor, part, block_bytes))
    assert found == part_of(tensor, part).contiguous().numpy().tobytes()


@pytest.mark.parametrize("part", [WHOLE, Slice(0, ((10, 90),)), Slice(1, ((10, 20), (30, 50)))])
def test_blocks_are_small(part: Slice) -> None:
    tensor = torch.zeros(100, 100)
    assert max(block.nbytes for block in blocks(tensor, part, 1000)) <= 1000


def test_a_scalar_and_nothing() -> None:
    assert [block.tolist() for block in blocks(torch.tensor(5), WHOLE)] == [[5]]
    assert list(blocks(torch.zeros(0, 4), WHOLE)) == []
    assert list(blocks(torch.zeros(3, 4), Slice(0, ()))) == []


@pytest.mark.parametrize("dtype", ["bool", "bfloat16", "float8_e4m3fn", "uint16", "float64"])
def test_raw_bytes_of_each_dtype(dtype: str) -> None:
    tensor = torch.tensor([0, 1, 1]).to(getattr(torch, dtype))
    assert len(raw_bytes(tensor)) == tensor.nbytes


@pytest.mark.parametrize(
    ("source", "target", "values", "lost"),
    [
        ("float32", "float16", [1.0, 65504.0, 65519.0], 0),
        ("float32", "float16", [1.0, 65520.0, -1e9, 5.0], 2),
        ("bfloat16", "float16", [70000.0], 1),
        ("float32", "float16", [math.inf, -math.inf, math.nan], 0),  # it was so before
        ("float32", "bfloat16", [3.4e38], 1),
        ("float32", "bfloat16", [3.3e38], 0),
        ("float64", "float32", [1e39], 1),
        ("float16", "float32", [65504.0], 0),
    ],
)
def test_values_out_of_range_are_counted(source: str, target: str, values: list[float], lost: int) -> None:
    block = torch.tensor(values, dtype=torch.float64).to(getattr(torch, source))
    converted, count = convert(block, getattr(torch, target))
    assert count == lost
    assert converted.dtype == getattr(torch, target)
    assert torch.equal(converted.isnan(), block.isnan())
