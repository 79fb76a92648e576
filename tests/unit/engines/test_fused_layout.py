"""Whatever somebody makes of numbered tensors is recognised, or refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raydsinfer.checkpoints.tensors import WHOLE, Slice
from raydsinfer.engines.fused_layout import Joined, Part, numbered, read_layout, shrunk, unit_of

SHAPES = {"q": (4, 6), "k": (2, 6), "o": (6, 6), "b": (6,)}
Tensors = dict[str, torch.Tensor]


def fused(tensors: Tensors) -> Tensors:
    joined = torch.cat([tensors["q"], tensors["k"]]).t().contiguous()
    return {"qk": joined, "square": tensors["o"], "bias": tensors["b"]}


def kept(tensor: torch.Tensor, wanted: Slice) -> torch.Tensor:
    """What a reader brings for a slice."""
    if wanted.dim is None:
        return tensor
    return torch.cat([tensor.narrow(wanted.dim, start, stop - start) for start, stop in wanted.ranges], wanted.dim)


def fill(layout: dict[str, Joined], values: Tensors, expected: Tensors) -> Tensors:
    """Bring values to where a layout says they belong."""
    filled = {name: torch.zeros_like(parameter) for name, parameter in expected.items()}
    for name, joined in layout.items():
        places = joined.places(filled[name])
        for part in joined.parts:
            places[part.leaf].copy_(kept(values[part.leaf], part.wanted))
    return filled


def test_a_layout_says_where_other_values_belong() -> None:
    layout = read_layout(numbered(SHAPES), fused(numbered(SHAPES)))
    assert layout["qk"] == Joined((Part("q", WHOLE, 4), Part("k", WHOLE, 2)), transposed=True)
    assert layout["square"] == Joined((Part("o", WHOLE, 6),), transposed=False)
    values = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    expected = fused(values)
    filled = fill(layout, values, expected)
    assert all(torch.equal(filled[name], expected[name]) for name in expected)


def head_by_head(tensors: Tensors, rank: int) -> Tensors:
    """Query, key and value of each head follow each other in `qkv`; a rank of two keeps half of the heads of each."""
    by_head = tensors["qkv"].reshape(4, 3, -1, 16).transpose(0, 1)  # what, head, element, hidden
    half = by_head[:, 2 * rank : 2 * rank + 2].reshape(-1, 16)
    by_row = tensors["out"].t()[8 * rank : 8 * rank + 8]
    return {"qkv": half.t().contiguous(), "out": by_row.contiguous(), "conv": tensors["conv"][:, [4, 5, 12, 13]]}


@pytest.mark.parametrize("rank", [0, 1])
def test_what_is_reordered_and_cut_for_a_rank(rank: int) -> None:
    shapes = {"qkv": (48, 16), "out": (16, 16), "conv": (16, 16)}
    layout = read_layout(numbered(shapes), head_by_head(numbered(shapes), rank))
    [part] = layout["qkv"].parts
    assert part.wanted.ranges[0] == (24 * rank, 24 * rank + 4), "the first head's queries come first"
    assert part.wanted.ranges[1] == (24 * rank + 12, 24 * rank + 16), "then the second head's"
    assert layout["out"] == Joined((Part("out", Slice(1, ((8 * rank, 8 * rank + 8),)), 16),), transposed=True)
    assert layout["conv"] == Joined((Part("conv", Slice(1, ((4, 6), (12, 14))), 16),), transposed=False)
    values = {name: torch.randn(shape) for name, shape in shapes.items()}
    expected = head_by_head(values, rank)
    filled = fill(layout, values, expected)
    assert all(torch.equal(filled[name], expected[name]) for name in expected)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.booleans(), st.randoms())
def test_any_order_and_sizes(sizes: list[int], transposed: bool, random: object) -> None:
    shapes = {f"part{at}": (size, 3) for at, size in enumerate(sizes)}
    tensors = numbered(shapes)
    names = sorted(shapes, key=lambda name: random.random())  # type: ignore[attr-defined]
    joined = torch.cat([tensors[name] for name in names])
    layout = read_layout(tensors, {"all": joined.t() if transposed else joined})
    parts = tuple(Part(name, WHOLE, shapes[name][0]) for name in names)
    assert layout == {"all": Joined(parts, transposed)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda made: {**made, "extra": torch.full((6,), -1.0)}, "extra is not made of slices"),
        (lambda made: {**made, "qk": made["qk"][:, [0, 4, 1, 2, 3, 5]]}, "it took b, k, k, o, q, q"),
        (lambda made: {**made, "qk": made["qk"][:5, :2]}, "qk is not made of slices"),
        (lambda made: {**made, "qk": made["qk"] @ made["qk"].t()}, "qk is not made of slices"),
        (lambda made: {**made, "again": made["bias"]}, "it took b, b, k, o, q"),
        (lambda made: {name: made[name] for name in ("qk", "bias")}, "it took b, k, q$"),
    ],
    ids=["left as it was", "in two pieces", "cut twice", "computed", "twice", "forgotten"],
)
def test_what_is_not_slices_of_whole_tensors_once_each_is_refused(
    change: Callable[[Tensors], Tensors], said: str
) -> None:
    tensors = numbered(SHAPES)
    with pytest.raises(ValueError, match=said):
        read_layout(tensors, change(fused(tensors)))


def test_shapes_shrink_together_and_keep_heads_whole() -> None:
    whole, cut = {"qkv": (15360, 5120)}, {"qkv": (5120, 7680), "bias": (7680,)}
    unit = unit_of(128, whole, cut)
    assert unit == 64
    assert shrunk(whole, unit) == {"qkv": (240, 80)}
    assert shrunk(cut, unit) == {"qkv": (80, 120), "bias": (120,)}
    assert unit_of(80, {"mlp": (6912, 2560)}) == 8
    assert unit_of(5, {"odd": (5, 15)}) == 1


def test_a_layout_grows_back() -> None:
    part = Part("qkv", Slice(0, ((0, 2), (6, 8))), 4)
    grown = Joined((part, Part("o", WHOLE, 2)), transposed=True).scaled(64)
    assert grown == Joined((Part("qkv", Slice(0, ((0, 128), (384, 512))), 256), Part("o", WHOLE, 128)), True)


def test_no_number_is_twice() -> None:
    numbers = torch.cat([tensor.flatten() for tensor in numbered(SHAPES).values()])
    assert len(numbers.unique()) == len(numbers) == 24 + 12 + 36 + 6
