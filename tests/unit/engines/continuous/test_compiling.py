"""Layers are exchanged for compiled ones only inside the context. What is compiled is tested on GPUs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from raydsinfer.engines.continuous.compiling import CompiledLayers, compiler_problem


class Layer(nn.Module):
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + 1


class LinearAllreduce(nn.Module):
    """Named like DeepSpeed's layer that talks to other ranks."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden * 2


def model_of(layers: list[Any]) -> nn.Module:
    model = nn.Module()
    model.layers, model.experts = nn.ModuleList(layers), nn.ModuleList([Layer()])
    return model


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Instead of a compiler: notes what it was given, and adds ten."""
    compiled: list[Any] = []

    def compile(function: Any, **settings: Any) -> Any:
        assert settings == {"dynamic": True}, "one compilation for all numbers of tokens"
        compiled.append(function)
        return lambda hidden: function(hidden) + 10

    monkeypatch.setattr(torch, "compile", compile)
    return compiled


def test_only_inside_the_context_and_only_once_compiled(marked: list[Any]) -> None:
    layers = [Layer(), Layer(), Layer()]
    own = layers[2].forward
    layers[2].forward = lambda hidden: own(hidden) + 100  # somebody else's hook
    compiled = CompiledLayers(model_of(layers))
    zero = torch.zeros(1)
    with compiled:
        assert [int(layer(zero)) for layer in layers] == [1, 1, 101], "not asked for yet"
    compiled.compile()
    assert len(marked) == 3, "the longest list of modules, and no other"
    assert [int(layer(zero)) for layer in layers] == [1, 1, 101]
    for _ in range(2):
        with compiled:
            assert [int(layer(zero)) for layer in layers] == [11, 11, 111]
        assert [int(layer(zero)) for layer in layers] == [1, 1, 101]
    assert "forward" not in vars(layers[0])
    compiled.give_up()
    with compiled:
        assert [int(layer(zero)) for layer in layers] == [1, 1, 101]


def test_layers_come_back_after_an_error(marked: list[Any]) -> None:
    layers = [Layer(), Layer()]
    compiled = CompiledLayers(model_of(layers))
    compiled.compile()
    with pytest.raises(ZeroDivisionError), compiled:
        raise ZeroDivisionError
    assert [int(layer(torch.zeros(1))) for layer in layers] == [1, 1]


def test_what_talks_to_other_ranks_is_not_traced(marked: list[Any]) -> None:
    layer = Layer()
    layer.out = LinearAllreduce()
    CompiledLayers(model_of([layer, Layer()])).compile()
    assert layer.out.forward._torchdynamo_disable
    assert int(layer.out(torch.ones(1))) == 2


def test_a_model_without_lists_of_layers() -> None:
    compiled = CompiledLayers(nn.Linear(1, 1))
    compiled.compile()
    with compiled:
        pass


def test_without_a_compiler_it_says_why_nothing_can_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(function: Any, **_: Any) -> Any:
        def fail(_: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no C compiler here")

        return fail

    monkeypatch.setattr(torch, "compile", compile)
    assert "no C compiler here" in compiler_problem("cpu")
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    assert not compiler_problem("cpu")
