from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from raydsinfer.engines.int8.linear import Int8Linear
from raydsinfer.engines.int8.product import dequantised
from raydsinfer.engines.int8.replace import int8_layers, linear_as_int8, replace_linears, require_float_weights
from raydsinfer.errors import UnsupportedError
from tests.models import tiny_model

LLAMA_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def replaced(model: nn.Module, *, device: str = "cpu", fill: bool = True) -> int:
    return replace_linears(model, linear_as_int8, torch.float32, device=device, fill=fill)


def test_linear_layers_of_decoder_layers_are_replaced_and_nothing_else() -> None:
    model = tiny_model("llama")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    assert replaced(model) == 3 * len(LLAMA_LINEARS)
    layers = int8_layers(model)
    assert {path.split(".")[-1] for path in layers} == set(LLAMA_LINEARS)
    assert type(model.lm_head) is nn.Linear
    after = dict(model.named_parameters())
    for name, parameter in before.items():
        if (path := name.removesuffix(".weight")) in layers:
            found = dequantised(layers[path].weight, layers[path].scale, torch.float32)
            assert (found - parameter).abs().max() <= layers[path].scale.max() / 2 * 1.001
        else:
            assert torch.equal(after[name], parameter)


def test_biases_come_along() -> None:
    model = tiny_model("opt")
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.data.normal_()
    before = dict(model.named_parameters())
    replaced(model)
    biases = {f"{path}.bias": layer.bias for path, layer in int8_layers(model).items()}
    assert biases
    assert all(bias is not None and torch.equal(bias, before[name]) for name, bias in biases.items())


@torch.no_grad()
def test_logits_stay_near() -> None:
    model, ids = tiny_model("llama", scale=1.0), torch.arange(20)[None]
    before = model(ids).logits
    replaced(model)
    error = (model(ids).logits - before).abs().max() / before.abs().max()
    assert 0 < error < 0.02


def test_a_model_on_meta_stays_there_until_it_is_filled() -> None:
    with torch.device("meta"):
        model = tiny_model("llama")
    replaced(model, device="meta", fill=False)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_a_family_without_linear_layers_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"hold 0 of the .* parameters of its decoder layers") as caught:
        replaced(tiny_model("gpt2"))
    assert "float16" in caught.value.instead


def test_experts_that_are_no_linear_layers_are_refused() -> None:
    class Expert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router, self.experts = nn.Linear(8, 4), nn.Parameter(torch.zeros(4, 8, 32))

    with pytest.raises(UnsupportedError, match="hold 36 of the 1,060"):
        replaced(nn.ModuleDict({"layers": nn.ModuleList([Expert()])}))


@pytest.mark.parametrize("found", [{"quant_method": "gptq"}, SimpleNamespace(quant_method="gptq")])
def test_weights_that_are_quantised_already_are_refused(found: Any) -> None:
    with pytest.raises(UnsupportedError, match=r"quantised already \(gptq\)"):
        require_float_weights(SimpleNamespace(quantization_config=found))


def test_float_weights_are_taken() -> None:
    require_float_weights(SimpleNamespace())
    require_float_weights(SimpleNamespace(quantization_config=None))


def test_what_only_resembles_a_linear_layer_is_left_alone() -> None:
    class Own(nn.Linear):
        """May compute something else."""

    assert linear_as_int8(Own(2, 2), torch.float32) is None
    assert isinstance(linear_as_int8(nn.Linear(2, 2), torch.float32), Int8Linear)
