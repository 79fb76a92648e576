from __future__ import annotations

from typing import Any

import pytest
import torch

from raydsinfer.engines.continuous.bloom import linear_bias, slopes_of, spare_biases
from raydsinfer.engines.continuous.forward import Forward
from raydsinfer.engines.continuous.probe import Recorder
from raydsinfer.engines.continuous.routing import Routes
from tests.models import tiny_model

TOKENS = torch.arange(3, 15)


class Biased(Recorder):
    """Attends to all tokens before, with biases."""

    def __init__(self, slopes: torch.Tensor) -> None:
        super().__init__()
        self.slopes = slopes

    def attend(self, layer: int, *parts: torch.Tensor, scale: float, window: int | None) -> torch.Tensor:
        super().attend(layer, *parts, scale=scale, window=window)
        query, key, value = (part.transpose(0, 1) for part in parts)
        at = torch.arange(query.shape[1])
        scores = query @ key.transpose(1, 2) * scale + linear_bias(self.slopes, at, at[:, None])
        return (scores.masked_fill(at > at[:, None], -torch.inf).softmax(-1) @ value).transpose(0, 1)


@pytest.mark.parametrize("heads", [4, 6])  # a power of two, and not
@torch.no_grad()
def test_led_elsewhere_with_biases_it_says_the_same(heads: int) -> None:
    model = tiny_model("bloom", hidden_size=16 * heads, n_head=heads, spread=0.1)
    expected = model(input_ids=TOKENS[None]).logits[0]
    slopes, routes = slopes_of(model), Routes(model)
    assert slopes is not None
    assert slopes.shape == (heads,)
    assert slopes.is_contiguous()
    recorder = Biased(slopes)
    found = Forward(model, routes)(TOKENS, torch.arange(len(TOKENS)), recorder)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert {shape.num_heads for shape in recorder.layers.values()} == {heads}
    again = model(input_ids=TOKENS[None], attention_mask=torch.ones(1, len(TOKENS), dtype=torch.int64)).logits[0]
    torch.testing.assert_close(again, expected)


def test_other_models_have_no_slopes() -> None:
    model = tiny_model("opt")
    assert slopes_of(model) is None
    spare_biases(model, lambda: True)
    assert not hasattr(model.base_model, "build_alibi_tensor")


def test_biases_are_made_for_the_models_own_attention_only() -> None:
    model: Any = tiny_model("bloom")
    led = [False]
    mask = torch.ones(1, 5, dtype=torch.int64)
    own = model.base_model.build_alibi_tensor(mask, 4, dtype=torch.float32)
    spare_biases(model, lambda: led[0])
    assert torch.equal(model.base_model.build_alibi_tensor(mask, 4, dtype=torch.float32), own)
    led[0] = True
    assert model.base_model.build_alibi_tensor(mask, 4, dtype=torch.float32) is mask


def test_a_bias_is_the_slope_times_the_distance() -> None:
    bias = linear_bias(torch.tensor([1.0, 0.5]), torch.arange(3), torch.tensor([[2], [1]]))
    assert bias.tolist() == [[[-2, -1, 0], [-1, 0, 1]], [[-1, -0.5, 0], [-0.5, 0, 0.5]]]
