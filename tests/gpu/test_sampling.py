"""The sampler on a GPU: it waits for nothing, fits into a graph, and draws what it draws on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from raydsinfer.config import GenerationConfig
from raydsinfer.engines.continuous.sampling.sampler import Sampler

VOCAB, EOS = 50_272, [2]
SETTINGS: list[dict[str, Any]] = [
    {"min_new_tokens": 4},
    {"do_sample": True, "temperature": 0.7},
    {"do_sample": True, "top_k": 200, "top_p": 0.9, "return_logprobs": True},
    {"do_sample": True, "min_p": 0.01, "typical_p": 0.9, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
]


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the device fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that it does not find all of them yet
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def make_sampler(device: str, settings: list[dict[str, Any]]) -> Sampler:
    sampler = Sampler(num_slots=len(settings), max_tokens=600, vocab_size=VOCAB, device=device, eos_ids=EOS)
    for slot, row in enumerate(settings):
        sampler.admit(slot, [slot + 5] * 300, 300, GenerationConfig(**row), seed=slot)
    return sampler


def test_a_step_waits_for_nothing_and_draws_what_the_cpu_draws() -> None:
    for settings in (SETTINGS, [*SETTINGS, {"do_sample": True, "top_k": 0}]):
        rows, drawn = len(settings), {}
        logits = torch.randn(8, rows, VOCAB, generator=torch.Generator().manual_seed(0)).half() * 3
        for device in ("cpu", "cuda"):
            sampler = make_sampler(device, settings)
            there, slots = logits.to(device), torch.arange(rows, device=device)
            positions = torch.full((8, rows), 300, device=device) + torch.arange(8, device=device)[:, None]
            with no_waiting():
                for step in range(8):
                    sampler.sample(there[step], slots, positions[step], range(rows))
            drawn[device] = sampler.history[:, :310].tolist()
        assert drawn["cuda"] == drawn["cpu"]


def test_plain_greedy_steps_are_captured() -> None:
    sampler = make_sampler("cuda", [{"min_new_tokens": 2}, {}])
    slots, positions = torch.tensor([0, 1, 2, 2], device="cuda"), torch.zeros(4, dtype=torch.int64, device="cuda")
    logits, graph = torch.zeros(4, VOCAB, dtype=torch.float16, device="cuda"), torch.cuda.CUDAGraph()

    def step() -> None:
        sampler.record(slots, sampler.greedy(logits, slots, positions), positions)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        step()
    sampler.flush()
    for position in (300, 301, 302):
        logits.zero_()
        logits[:, 2], logits[:, 9] = 5, 4
        positions.copy_(torch.tensor([position, position, 0, 0]))
        graph.replay()
    assert sampler.history[:2, 300:304].tolist() == [[9, 9, 2, 0], [2, 2, 2, 0]]
