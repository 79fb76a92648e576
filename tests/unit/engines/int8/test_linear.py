from __future__ import annotations

import pytest
import torch
from torch import nn

from raydsinfer.engines.int8.linear import Int8Linear, SummedInt8Linear
from raydsinfer.engines.int8.product import dequantised


def filled(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Int8Linear:
    outputs, inputs = weight.shape
    layer = Int8Linear(inputs, outputs, bias=bias is not None, dtype=weight.dtype, device="cpu")
    layer.quantise(weight)
    if bias is not None and layer.bias is not None:
        layer.bias.data.copy_(bias)
    return layer


def floats(layer: Int8Linear) -> torch.Tensor:
    return dequantised(layer.weight, layer.scale, layer.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_move_by_half_a_step_at_most(dtype: torch.dtype) -> None:
    weight = (torch.randn(40, 60) * torch.logspace(-3, 1, 40)[:, None]).to(dtype)
    layer = filled(weight)
    steps = (floats(layer).float() - weight.float()).abs() / layer.scale
    assert steps.max() <= 0.5 + 127 * torch.finfo(dtype).eps  # the result is rounded to the dtype once more
    assert layer.weight.abs().amax(1).eq(127).all(), "each row uses the whole range"


def test_the_range_is_symmetric() -> None:
    layer = filled(torch.tensor([[-1.0, 0.25, 0.0], [1.0, -0.5, 0.1]]))
    assert layer.weight.tolist() == [[-127, 32, 0], [127, -64, 13]]


def test_zeros_stay_zeros() -> None:
    layer = filled(torch.zeros(2, 3), torch.ones(2))
    assert layer(torch.randn(4, 3)).tolist() == [[1.0, 1.0]] * 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_hidden(bad: float) -> None:
    weight = torch.ones(3, 4)
    weight[1, 2] = bad
    answer = filled(weight)(torch.ones(1, 4))
    assert answer.isnan().tolist() == [[False, True, False]]


def test_large_matrices_are_quantised_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(37, 20)
    whole = filled(weight)
    monkeypatch.setattr("raydsinfer.engines.int8.linear._PIECE_BYTES", 5 * 4 * 20)
    pieces = filled(weight)
    assert torch.equal(pieces.weight, whole.weight)
    assert torch.equal(pieces.scale, whole.scale)


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_gives_the_products_of_its_weights(bias: bool) -> None:
    linear = nn.Linear(30, 20, bias=bias)
    layer = filled(linear.weight.data, linear.bias.data if bias else None)
    linear.weight.data.copy_(floats(layer))
    hidden = torch.randn(2, 5, 30)
    assert torch.equal(layer(hidden), linear(hidden))


def test_sums_that_float16_cannot_hold_before_they_are_scaled_do_not_overflow() -> None:
    layer = filled(torch.full((1, 4096), 0.015, dtype=torch.float16))
    assert layer(torch.full((1, 4096), 4.0, dtype=torch.float16)).item() == pytest.approx(0.015 * 4 * 4096, rel=2e-3)


def test_rows_that_are_held_in_parts_have_the_scales_of_whole_ones() -> None:
    linear = nn.Linear(10, 6)
    largest = linear.weight.data.abs().amax(1, keepdim=True)
    added: list[torch.Tensor] = []
    parts = []
    for columns in (slice(0, 7), slice(7, 10)):
        part = SummedInt8Linear(
            columns.stop - columns.start,
            6,
            bias=True,
            dtype=torch.float32,
            device="cpu",
            add_up=added.append,
            take_largest=lambda mine: mine.copy_(torch.maximum(mine, largest)),
        )
        part.quantise(linear.weight.data[:, columns])
        assert part.bias is not None
        part.bias.data.copy_(linear.bias)
        parts.append(part)
    whole = filled(linear.weight.data)
    assert torch.equal(torch.cat([part.weight for part in parts], 1), whole.weight)
    assert all(torch.equal(part.scale, whole.scale) for part in parts)
    hidden = torch.randn(3, 10)
    for part, columns in zip(parts, (slice(0, 7), slice(7, 10)), strict=True):
        answer = part(hidden[:, columns])
        assert answer is added[-1], "summed in place, the bias after that"
    total = parts[0](hidden[:, :7]) + parts[1](hidden[:, 7:]) - linear.bias
    torch.testing.assert_close(total, whole(hidden) + linear.bias)


def test_a_layer_on_meta_takes_memory_later() -> None:
    layer = Int8Linear(8, 4, bias=True, dtype=torch.float16, device="meta")
    assert sum(p.nbytes for p in layer.parameters()) == 8 * 4 + 4 * 4 + 4 * 2
    assert all(p.is_meta for p in layer.parameters())
    layer.to_empty(device="cpu")
    assert {p.dtype for p in layer.parameters()} == {torch.int8, torch.float32, torch.float16}
