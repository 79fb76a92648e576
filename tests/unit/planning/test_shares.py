from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, LlamaConfig

from raydsinfer.engines.model import build_meta
from raydsinfer.planning.shares import parameters_by_rank, parameters_outside_layers, quantised_by_rank
from tests.unit.planning.facts import model

SMOLLM2 = LlamaConfig(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, tie_word_embeddings=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("num_ranks", "reported"),
    # What the engine's LoadReport says of SmolLM2-135M on rank 0. Cut, the head is a part of its own.
    [(1, 134_515_008), (2, 101_583_168), (3, 73_173_312)],
)
def test_smollm2(num_ranks: int, reported: int) -> None:
    built: Any = build_meta(SMOLLM2, torch.float16)
    assert parameters_by_rank(built, "autotp", num_ranks)[0] == reported


@pytest.mark.parametrize(("num_ranks", "megabytes"), [(1, 220), (2, 234)])
def test_smollm2_in_int8_takes_what_an_engine_reported(num_ranks: int, megabytes: int) -> None:
    built: Any = build_meta(SMOLLM2, torch.float16)
    whole, quantised = (f(built, "autotp", num_ranks)[0] for f in (parameters_by_rank, quantised_by_rank))
    assert (4 * whole - 3 * quantised) / 1e6 == pytest.approx(megabytes, rel=0.01)  # activations in float32 on a CPU


def test_no_rank_holds_less_than_its_share() -> None:
    facts = model("opt")
    for mode in ("autotp", "kernel_inject"):
        for num_ranks in (1, 2, 3, 7):
            parts = parameters_by_rank(facts.built, mode, num_ranks)
            assert len(parts) == num_ranks
            assert facts.num_parameters / num_ranks <= max(parts) <= facts.num_parameters
    assert parameters_by_rank(facts.built, "autotp", 1) == [facts.num_parameters]
    assert len(set(parameters_by_rank(facts.built, "kernel_inject", 3))) == 1


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_kernels_have_a_key_value_head_for_each_query_head(num_ranks: int) -> None:
    built: Any = build_meta(SMOLLM2, torch.float16)
    without: Any = build_meta(LlamaConfig(**{**SMOLLM2.to_dict(), "num_key_value_heads": 9}), torch.float16)
    assert parameters_by_rank(built, "kernel_inject", num_ranks) == parameters_by_rank(
        without, "kernel_inject", num_ranks
    )
    one = parameters_by_rank(built, "kernel_inject", 1)[0]
    assert one == parameters_by_rank(built, "plain", 1)[0] + 30 * 2 * 576 * (576 - 192)


def test_a_model_without_a_head_of_its_own() -> None:
    built: Any = build_meta(AutoConfig.for_model("gpt2", n_embd=64, n_layer=1, n_head=4), torch.float16)
    assert parameters_by_rank(built, "plain", 1) == [sum(p.numel() for p in built.parameters())]


def test_what_is_outside_of_the_layers_is_counted_once_if_it_is_tied() -> None:
    assert parameters_outside_layers(build_meta(SMOLLM2, torch.float16)) == 49152 * 576 + 576
    assert parameters_outside_layers(model("llama").built) == 2 * 128256 * 4096 + 4096
