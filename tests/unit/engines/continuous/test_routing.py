from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from raydsinfer.engines.continuous.forward import Forward
from raydsinfer.engines.continuous.probe import Recorder
from raydsinfer.engines.continuous.routing import Routes
from raydsinfer.errors import UnsupportedError
from tests.models import prompts, tiny_model

TOKENS = torch.tensor(prompts([12])[0])
SIZE = 16  # numbers of a head: 64 by 4


class Spy(Recorder):
    """Attends to all tokens and notes what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, float, int | None]] = []

    def attend(self, layer: int, query: Any, key: Any, value: Any, *, scale: float, window: int | None) -> torch.Tensor:
        self.asked.append((layer, scale, window))
        return super().attend(layer, query, key, value, scale=scale, window=window)


@torch.no_grad()
def plain(model: Any) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=TOKENS[None], use_cache=False).logits[0]
    return logits


@torch.no_grad()
def routed(model: Any, routes: Routes, attention: Any, sampled: torch.Tensor | None = None) -> torch.Tensor:
    return Forward(model, routes)(TOKENS, torch.arange(len(TOKENS)), attention, sampled)


@pytest.mark.parametrize(
    ("family", "changes", "asked"),
    [
        ("llama", {"hidden_size": 64}, [(layer, SIZE**-0.5, None) for layer in range(3)]),
        ("gptj", {}, [(layer, SIZE**-0.5, None) for layer in range(3)]),
        ("gpt_neo", {}, [(0, 1.0, None), (1, 1.0, 16)]),
        ("mistral", {"sliding_window": 20}, [(layer, SIZE**-0.5, 20) for layer in range(3)]),
        ("opt", {}, None),
        ("gpt2", {}, None),
    ],
)
def test_every_layer_asks_once_with_its_scale_and_window(
    family: str, changes: dict[str, Any], asked: list[tuple[int, float, int | None]] | None
) -> None:
    model, spy = tiny_model(family, **changes), Spy()
    expected = plain(model)
    routes = Routes(model)
    torch.testing.assert_close(routed(model, routes, spy), expected, rtol=1e-4, atol=1e-4)
    assert [layer for layer, _, _ in spy.asked] == list(range(routes.num_layers))
    if asked is not None:
        assert [layer for layer, _, _ in asked] == [layer for layer, _, _ in spy.asked]
        assert [scale for _, scale, _ in spy.asked] == pytest.approx([scale for _, scale, _ in asked])
        assert [window for _, _, window in spy.asked] == [window for _, _, window in asked]


@pytest.mark.parametrize("family", ["mistral", "gptj"])
def test_heads_of_keys_are_those_of_the_model(family: str) -> None:
    model, spy = tiny_model(family), Spy()
    routed(model, Routes(model), spy)
    shape = spy.layers[0]
    assert (shape.num_query_heads, shape.key_size, shape.value_size) == (4, SIZE, SIZE)
    assert shape.num_heads == (2 if family == "mistral" else 4)


@pytest.mark.parametrize("family", ["llama", "gptj", "gpt_neo"])
def test_the_models_own_attention_comes_back(family: str) -> None:
    model, spy = tiny_model(family), Spy()
    implementation, expected = model.config._attn_implementation, plain(model)
    routes = Routes(model)
    routed(model, routes, spy)
    assert routes.attention is None
    assert model.config._attn_implementation == implementation
    assert torch.equal(plain(model), expected)
    with pytest.raises(ZeroDivisionError), routes.to(spy):
        raise ZeroDivisionError
    num = len(spy.asked)
    assert torch.equal(plain(model), expected)
    assert len(spy.asked) == num


def test_wanted_logits_alone() -> None:
    model = tiny_model("llama")
    routes, sampled = Routes(model), torch.tensor([11, 3])
    some, every = routed(model, routes, Spy(), sampled), routed(model, routes, Spy())
    torch.testing.assert_close(some, every[sampled])


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_two_models_in_one_process_do_not_meet(family: str) -> None:
    first, second = tiny_model(family), tiny_model(family, scale=3.0)
    expected = plain(second)
    of_first, of_second, spy, other = Routes(first), Routes(second), Spy(), Spy()
    with of_first.to(spy):
        assert torch.equal(plain(second), expected)
        torch.testing.assert_close(routed(second, of_second, other), expected, rtol=1e-4, atol=1e-4)
    assert not spy.asked
    assert len(other.asked) == 3


def test_a_model_without_known_attention_is_refused() -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer_idx, self.mix = 0, nn.Linear(4, 4)

    with pytest.raises(UnsupportedError, match="it has no attention that can be led elsewhere") as caught:
        Routes(nn.Sequential(Mixer()))
    assert caught.value.instead == "Use batching='static'."


def test_attention_that_wants_more_than_keys_and_values_is_refused() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Gemma2ForCausalLM(Gemma2Config(vocab_size=259, num_key_value_heads=1, head_dim=16, **sizes)).eval()
    with pytest.raises(UnsupportedError, match="its attention uses softcap"):
        routed(model, Routes(model), Spy())
