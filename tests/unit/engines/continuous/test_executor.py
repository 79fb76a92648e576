"""Steps of a real model: chunked and whole, alone and mixed, they give the logits of transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.base import RankContext
from raydsinfer.engines.continuous.agreement import Agreement
from raydsinfer.engines.continuous.attention.choice import choose_attention
from raydsinfer.engines.continuous.executor import Executor
from raydsinfer.engines.continuous.forward import Forward
from raydsinfer.engines.continuous.kv_cache import KVCache
from raydsinfer.engines.continuous.page_tables import PageTables
from raydsinfer.engines.continuous.plan import Chunk, StepPlan
from raydsinfer.engines.continuous.probe import layer_shapes
from raydsinfer.engines.continuous.routing import Routes
from raydsinfer.engines.continuous.sampling.sampler import Sampler
from raydsinfer.engines.continuous.statistics import Statistics
from tests.models import VOCAB, prompts, tiny_model

PAGES = [[5, 2, 0], [1, 7], [3, 4, 6]]
PROMPTS = prompts([9, 4, 11])


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=["llama", "gpt_neo"])
def model(request: pytest.FixtureRequest) -> Any:
    return tiny_model(request.param)


class Device:
    """An executor and what it is made of."""

    def __init__(
        self, model: Any, agree: Callable[[torch.Tensor], None] | None = None, *, graphs: bool = False
    ) -> None:
        self.model, self.statistics = model, Statistics()
        routes = Routes(model)
        forward = Forward(model, routes)
        layers, windows = layer_shapes(forward, routes.num_layers, 8, VOCAB, "cpu", 64)
        cache = KVCache(layers, num_pages=8, page_size=4, dtype=torch.float32, device="cpu")
        tables = PageTables(num_slots=3, pages_per_slot=4, padding_page=cache.padding_page, device="cpu")
        self.sampler = Sampler(num_slots=3, max_tokens=16, vocab_size=VOCAB, device="cpu", eos_ids=[2])
        for slot, prompt in enumerate(PROMPTS):
            self.sampler.admit(slot, prompt, len(prompt), GenerationConfig(return_logprobs=slot == 1), 0)
        self.executor = Executor(
            forward=forward,
            cache=cache,
            tables=tables,
            sampler=self.sampler,
            attentions=choose_attention("auto", cache, tables, Agreement(RankContext()), windows=windows, device="cpu"),
            max_running=3,
            max_tokens=16,
            device="cpu",
            graphs=graphs,
            agree=agree,
            statistics=self.statistics,
        )

    def plain(self, token_ids: list[int]) -> torch.Tensor:
        """The model's own logits behind these tokens."""
        logits: torch.Tensor = self.model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0, -1]
        return logits


def prefill(slot: int, start: int, length: int) -> Chunk:
    tokens = tuple(PROMPTS[slot][start : start + length])
    return Chunk(slot, slot, start, length, tokens, start + length == len(PROMPTS[slot]), PAGES[slot])


def decode(slot: int, position: int) -> Chunk:
    return Chunk(slot, slot, position, 1, (), True, PAGES[slot])


def test_logits_of_every_kind_of_step(model: Any) -> None:
    device = Device(model)
    steps = [
        (prefill(0, 0, 9), prefill(1, 0, 2)),
        (prefill(1, 2, 2), prefill(2, 0, 5)),
        (prefill(2, 5, 6),),
        (decode(0, 8), decode(1, 3), decode(2, 10)),
    ]
    wanted = [[0], [1], [2], [0, 1, 2]]
    for index, (chunks, slots) in enumerate(zip(steps, wanted, strict=True)):
        admitted = tuple(chunk.slot for chunk in chunks if not chunk.is_decode and not chunk.start)
        logits, on_device, positions, host_slots = device.executor.compute(StepPlan(index, chunks, admitted))
        assert host_slots == on_device.tolist() == slots
        assert positions.tolist() == [len(PROMPTS[slot]) for slot in slots]
        for row, slot in zip(logits, slots, strict=True):
            torch.testing.assert_close(row, device.plain(PROMPTS[slot]), rtol=1e-4, atol=1e-4)


def test_new_tokens_are_read_by_the_next_step_and_mixed_steps_keep_order(model: Any) -> None:
    device = Device(model)
    first = device.executor.launch(StepPlan(0, (prefill(0, 0, 9), prefill(1, 0, 4)), (0, 1)))
    second = device.executor.launch(StepPlan(1, (decode(0, 9), decode(1, 4), prefill(2, 0, 11)), (2,)))
    tokens, logprobs = first.wait()
    assert first.sequences == (0, 1)
    assert tokens == [int(device.plain(PROMPTS[slot]).argmax()) for slot in (0, 1)]
    assert logprobs is not None
    assert logprobs[1] == pytest.approx(float(device.plain(PROMPTS[1]).log_softmax(0).max()), abs=1e-4)
    assert second.sequences == (0, 1, 2)
    inputs = [[*PROMPTS[0], tokens[0]], [*PROMPTS[1], tokens[1]], PROMPTS[2]]
    assert second.wait()[0] == [int(device.plain(token_ids).argmax()) for token_ids in inputs]
    assert device.statistics.eager_steps == 2
    assert device.executor.num_graphs == 0


def test_a_part_of_a_prompt_samples_nothing(model: Any) -> None:
    launched = Device(model).executor.launch(StepPlan(0, (prefill(2, 0, 5),), (2,)))
    assert launched.sequences == ()
    assert launched.wait() == ([], None)


def test_tokens_and_their_log_probabilities_can_be_another_ranks(model: Any) -> None:
    def agree(tensor: torch.Tensor) -> None:
        tensor.fill_(77)

    device = Device(model, agree=agree)
    launched = device.executor.launch(StepPlan(0, (prefill(0, 0, 9), prefill(1, 0, 4)), (0, 1)))
    assert launched.wait() == ([77, 77], [77.0, 77.0])
    assert device.sampler.history[0, 9] == device.sampler.history[1, 4] == 77


def test_a_step_that_cannot_be_captured_is_computed_all_the_same(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    device = Device(model, graphs=True)  # without a GPU nothing can be captured
    device.executor.launch(StepPlan(0, (prefill(0, 0, 9),), (0,)))
    for position in (9, 10):
        known = device.sampler.history[0, : position + 1].tolist()
        launched = device.executor.launch(StepPlan(position, (decode(0, position),), ()))
        assert launched.wait()[0] == [int(device.plain(known).argmax())]
    assert device.executor.num_graphs == 0
    assert caplog.text.count("decode steps run without CUDA graphs") == 1
