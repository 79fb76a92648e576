"""The trial finds out attention that is wrong, in prompts or in decode rows alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.continuous.attention.sdpa import SdpaDecode, SdpaPrefill
from raydsinfer.engines.continuous.bloom import slopes_of
from raydsinfer.engines.continuous.executor import Attentions, Executor
from raydsinfer.engines.continuous.forward import Forward
from raydsinfer.engines.continuous.kv_cache import KVCache, LayerShape
from raydsinfer.engines.continuous.page_tables import PageTables
from raydsinfer.engines.continuous.probe import NUM_TOKENS, Recorder, largest_error, layer_shapes, trial_tokens
from raydsinfer.engines.continuous.routing import Routes
from raydsinfer.engines.continuous.sampling.sampler import Sampler
from raydsinfer.engines.continuous.statistics import Statistics
from raydsinfer.errors import UnsupportedError
from tests.models import VOCAB, tiny_model

Arguments = dict[str, Any]
PAGE_SIZE = 4


def intact(arguments: Arguments, cache: KVCache) -> Arguments:
    return arguments


def wrong_scale(arguments: Arguments, cache: KVCache) -> Arguments:
    return arguments | {"scale": arguments["scale"] * 1.1}


def missing_window(arguments: Arguments, cache: KVCache) -> Arguments:
    return arguments | {"window": None}


def swapped_heads(arguments: Arguments, cache: KVCache) -> Arguments:
    return arguments | {"query": arguments["query"].flip(1)}


def swapped_keys(arguments: Arguments, cache: KVCache) -> Arguments:
    """Later steps find the keys of the first two tokens in each other's place."""
    for keys in cache.keys:
        keys[:2] = keys[:2].flip(0)
    return arguments


def nothing_there(arguments: Arguments, cache: KVCache) -> Arguments:
    return arguments | {"scale": float("nan")}


Break = Callable[[Arguments, KVCache], Arguments]
Slopes = Callable[[Any], torch.Tensor | None]


@torch.no_grad()
def error_of(
    family: str,
    *,
    prefill: Break = intact,
    decode: Break = intact,
    page_size: int = PAGE_SIZE,
    take_slopes: Slopes = slopes_of,
    **changes: Any,
) -> float:
    model = tiny_model(family, **changes)
    slopes, routes = take_slopes(model), Routes(model)
    forward = Forward(model, routes)
    layers, _ = layer_shapes(forward, routes.num_layers, NUM_TOKENS, VOCAB, "cpu", 64)
    cache = KVCache(layers, num_pages=16, page_size=page_size, dtype=torch.float32, device="cpu")
    tables = PageTables(num_slots=2, pages_per_slot=8, padding_page=cache.padding_page, device="cpu")
    sampler = Sampler(num_slots=2, max_tokens=32, vocab_size=VOCAB, device="cpu", eos_ids=[2])

    class Prefill(SdpaPrefill):
        def attend(self, layer: int, query: torch.Tensor, *keys: torch.Tensor, **others: Any) -> torch.Tensor:
            return super().attend(layer, **prefill({"query": query, "key": keys[0], "value": keys[1], **others}, cache))

    class Decode(SdpaDecode):
        def attend(self, layer: int, query: torch.Tensor, **others: Any) -> torch.Tensor:
            return super().attend(layer, **decode({"query": query, **others}, cache))

    executor = Executor(
        forward=forward,
        cache=cache,
        tables=tables,
        sampler=sampler,
        attentions=Attentions(
            decode=lambda batch: Decode(cache, tables, slopes), prefill=Prefill(cache, slopes), pads=True
        ),
        max_running=2,
        max_tokens=32,
        device="cpu",
        graphs=False,
        agree=None,
        statistics=Statistics(),
    )
    sampler.admit(0, trial_tokens(VOCAB), NUM_TOKENS, GenerationConfig(), 0)
    plain = model(input_ids=torch.tensor([trial_tokens(VOCAB)]), use_cache=False).logits[0]
    return largest_error(plain, lambda plan: executor.compute(plan)[0], page_size)


@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("gptj", {}),
        ("gpt_neo", {"window_size": 3}),
        ("mistral", {"sliding_window": 4}),
        ("bloom", {}),
    ],
)
def test_right_attention_passes(family: str, changes: dict[str, Any], page_size: int) -> None:
    assert error_of(family, page_size=page_size, **changes) < 0.1


@pytest.mark.parametrize(
    ("family", "changes", "broken"),
    [
        ("llama", {}, wrong_scale),
        ("llama", {}, swapped_heads),
        ("llama", {}, swapped_keys),
        ("llama", {}, nothing_there),
        ("gptj", {}, swapped_keys),
        ("bloom", {}, swapped_heads),
        ("gpt_neo", {"window_size": 3}, missing_window),
        ("mistral", {"sliding_window": 4}, missing_window),
    ],
)
@pytest.mark.parametrize("where", ["prefill", "decode"])
def test_broken_attention_is_found_out(family: str, changes: dict[str, Any], broken: Break, where: str) -> None:
    assert error_of(family, **{where: broken}, **changes) > 1


@pytest.mark.parametrize(
    "slopes", [lambda model: None, lambda model: slopes_of(model).flip(0), lambda model: slopes_of(model) / 2]
)
def test_biases_that_are_missing_or_of_other_heads_are_found_out(slopes: Slopes) -> None:
    assert error_of("bloom", take_slopes=slopes) > 1


def test_layers_windows_and_memory_are_found_by_trying() -> None:
    model = tiny_model("gpt_neo")
    routes = Routes(model)
    with torch.no_grad():
        layers, windows = layer_shapes(Forward(model, routes), 2, 50, VOCAB, "cpu", 17)
        _, narrow = layer_shapes(Forward(model, routes), 2, 50, VOCAB, "cpu", 16)
    assert layers == [LayerShape(num_heads=4, num_query_heads=4, key_size=16, value_size=16)] * 2
    assert windows
    assert not narrow  # no sequence is longer than the window of 16


def test_layers_that_attend_in_another_way_are_counted() -> None:
    model = tiny_model("xglm")
    with torch.no_grad(), pytest.raises(UnsupportedError, match="0 of its 2 layers attend in a way that can be led"):
        layer_shapes(Forward(model, Routes(model)), 2, NUM_TOKENS, VOCAB, "cpu", 64)


def test_the_recorder_attends_causally() -> None:
    query, key, value = (torch.randn(5, 2, 4) for _ in range(3))
    recorder = Recorder()
    whole = recorder.attend(0, query, key, value, scale=0.5, window=None)
    part = recorder.attend(0, query[:3], key[:3], value[:3], scale=0.5, window=3)
    torch.testing.assert_close(whole[:3], part)
    assert recorder.windows == {3}


def test_trial_tokens_are_of_the_vocabulary() -> None:
    for size in (3, 259, 50_000):
        assert len(trial_tokens(size)) == NUM_TOKENS
        assert all(0 <= token < size for token in trial_tokens(size))
