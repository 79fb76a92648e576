from __future__ import annotations

import pytest
import torch
from torch import nn

from raydsinfer.engines.continuous.fusing import FusedPart, fuse_linears
from raydsinfer.engines.int8.linear import Int8Linear

NAMES = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")


class Block(nn.Module):
    """Queries of 12 numbers, keys and values of 6, and a gated pair of 20."""

    def __init__(self, *, bias: bool = True, inputs: int = 8) -> None:
        super().__init__()
        for name, outputs in zip(NAMES, (12, 6, 6, 20, 20), strict=True):
            setattr(self, name, nn.Linear(inputs, outputs, bias=bias))

    def forward(self, hidden: torch.Tensor) -> list[torch.Tensor]:
        return [getattr(self, name)(hidden) for name in NAMES]


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_fused_layers_give_the_same(bias: bool) -> None:
    model = nn.Sequential(nn.ModuleDict({"first": Block(bias=bias), "second": Block(bias=bias)}))
    blocks = list(model[0].values())  # type: ignore[operator]
    hidden = torch.randn(1, 7, 8)
    before = [block(hidden) for block in blocks]
    assert fuse_linears(model) == 4
    for block, expected in zip(blocks, before, strict=True):
        assert all(isinstance(getattr(block, name), FusedPart) for name in NAMES)
        torch.testing.assert_close(block(hidden), expected)


@pytest.mark.parametrize("bias", [True, False])
def test_parts_keep_their_parameters_and_share_the_memory_of_one(bias: bool) -> None:
    block = Block(bias=bias)
    before = {name: parameter.clone() for name, parameter in block.named_parameters()}
    fuse_linears(block)
    after = dict(block.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    for group in (NAMES[:3], NAMES[3:]):
        memory = {after[f"{name}.weight"].untyped_storage().data_ptr() for name in group}
        assert len(memory) == 1


@torch.no_grad()
def test_parts_may_be_asked_for_in_any_order_and_twice() -> None:
    block, first, second = Block(), torch.randn(3, 8), torch.randn(5, 8)
    layers = {name: getattr(block, name) for name in NAMES[:3]}
    asked = [("v_proj", first), ("q_proj", first), ("q_proj", first), ("k_proj", second), ("k_proj", first)]
    asked += [("v_proj", second), ("q_proj", second), ("v_proj", first), ("v_proj", first.clone())]
    expected = [layers[name](hidden) for name, hidden in asked]
    fuse_linears(block)
    for (name, hidden), wanted in zip(asked, expected, strict=True):
        torch.testing.assert_close(getattr(block, name)(hidden), wanted)


@torch.no_grad()
def test_the_same_tensor_with_new_numbers_is_computed_anew() -> None:
    block, hidden = Block(), torch.randn(3, 8)
    fuse_linears(block)
    for _ in range(3):
        hidden.normal_()
        expected = [nn.functional.linear(hidden, getattr(block, n).weight, getattr(block, n).bias) for n in NAMES]
        torch.testing.assert_close(block(hidden), expected)


@torch.no_grad()
def test_nothing_is_kept_once_all_parts_were_taken() -> None:
    block = Block()
    fuse_linears(block)
    block(torch.randn(3, 8))
    fused = block.q_proj._fused
    assert fused._input is None
    assert not any(part is not None for part in fused._parts)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("k_proj", nn.Linear(9, 6)),
        ("k_proj", nn.Linear(8, 6, bias=False)),
        ("v_proj", nn.Linear(8, 6, dtype=torch.float64)),
        ("v_proj", nn.Sequential(nn.Linear(8, 6))),
        ("q_proj", None),
    ],
)
def test_layers_that_differ_stay_apart(name: str, layer: nn.Module | None) -> None:
    block = Block()
    setattr(block, name, layer)
    assert fuse_linears(block) == 1  # the other group
    assert isinstance(block.gate_proj, FusedPart)
    assert getattr(block, name) is layer


def test_subclasses_of_linear_stay_what_they_are() -> None:
    class Scaled(nn.Linear):
        pass

    block = Block()
    block.up_proj = Scaled(8, 20)
    assert fuse_linears(block) == 1
    assert type(block.gate_proj) is nn.Linear


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_layers_in_int8_are_fused_and_stay_in_int8(bias: bool) -> None:
    block = Block(bias=bias)
    for name in NAMES:
        linear = getattr(block, name)
        setattr(block, name, as_int8(linear))
    before, parameters = block(torch.ones(1, 7, 8)), {name: p.clone() for name, p in block.named_parameters()}
    assert fuse_linears(block) == 2
    after = dict(block.named_parameters())
    assert after.keys() == parameters.keys()
    assert all(torch.equal(after[name], parameters[name]) for name in parameters)
    assert {after[f"{name}.weight"].dtype for name in NAMES} == {torch.int8}
    for got, expected in zip(block(torch.ones(1, 7, 8)), before, strict=True):
        torch.testing.assert_close(got, expected)


@torch.no_grad()
def test_int8_and_floats_are_not_fused() -> None:
    block = Block()
    block.k_proj = as_int8(block.k_proj)
    assert fuse_linears(block) == 1
    assert not isinstance(block.q_proj, FusedPart)


def as_int8(linear: nn.Linear) -> Int8Linear:
    layer = Int8Linear(
        linear.in_features, linear.out_features, bias=linear.bias is not None, dtype=torch.float32, device="cpu"
    )
    layer.quantise(linear.weight.data)
    if layer.bias is not None:
        layer.bias.data.copy_(linear.bias)
    return layer
