"""Whatever somebody makes of numbered tensors is recognised, or refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raydsinfer.engines.fused_layout import Joined, numbered, read_layout, shrunk

SHAPES = {"q": (4, 6), "k": (2, 6), "o": (6, 6), "b": (6,)}
Tensors = dict[str, torch.Tensor]


def fused(tensors: Tensors) -> Tensors:
    joined = torch.cat([tensors["q"], tensors["k"]]).t().contiguous()
    return {"qk": joined, "square": tensors["o"], "bias": tensors["b"]}


def test_a_layout_says_where_other_values_belong() -> None:
    layout = read_layout(numbered(SHAPES), fused(numbered(SHAPES)))
    assert layout["qk"] == Joined(("q", "k"), transposed=True)
    assert layout["square"] == Joined(("o",), transposed=False)
    values = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    expected = fused(values)
    for name, joined in layout.items():
        parameter = torch.zeros_like(expected[name])
        for leaf, place in joined.places(parameter, SHAPES).items():
            place.copy_(values[leaf])
        assert torch.equal(parameter, expected[name])


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.booleans(), st.randoms())
def test_any_order_and_sizes(sizes: list[int], transposed: bool, random: object) -> None:
    shapes = {f"part{at}": (size, 3) for at, size in enumerate(sizes)}
    tensors = numbered(shapes)
    names = sorted(shapes, key=lambda name: random.random())  # type: ignore[attr-defined]
    joined = torch.cat([tensors[name] for name in names])
    layout = read_layout(tensors, {"all": joined.t() if transposed else joined})
    assert layout == {"all": Joined(tuple(names), transposed)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda made: {**made, "extra": torch.full((6,), -1.0)}, "extra is not made of whole"),
        (lambda made: {**made, "qk": made["qk"].flip(0)}, "qk is not made of whole"),
        (lambda made: {**made, "qk": made["qk"][:, :5]}, "qk is not made of whole"),
        (lambda made: {**made, "again": made["bias"]}, "it took b, b, k, o, q"),
        (lambda made: {name: made[name] for name in ("qk", "bias")}, "it took b, k, q$"),
    ],
    ids=["left as it was", "other order", "cut", "twice", "forgotten"],
)
def test_what_is_not_whole_tensors_once_each_is_refused(change: Callable[[Tensors], Tensors], said: str) -> None:
    tensors = numbered(SHAPES)
    with pytest.raises(ValueError, match=said):
        read_layout(tensors, change(fused(tensors)))


def test_shapes_shrink_together_and_keep_their_proportions() -> None:
    whole, parts = shrunk({"qkv": (5120, 7680)}, {"q": (2560, 5120), "bias": (2560,)})
    assert whole == {"qkv": (4, 6)}
    assert parts == {"q": (2, 4), "bias": (2,)}
    assert shrunk({"odd": (5, 15)}) == [{"odd": (5, 15)}]


def test_no_number_is_twice() -> None:
    numbers = torch.cat([tensor.flatten() for tensor in numbered(SHAPES).values()])
    assert len(numbers.unique()) == len(numbers) == 24 + 12 + 36 + 6
