"""Weights in int8 on real process groups: tokens are those of transformers with weights rounded alike, on any ranks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.engines.base import EngineSpec, GenerateBatch, RankContext
from tests.models import plain_greedy, prompts, write_rounded, write_tiny_model
from tests.ranks import run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

FAMILIES = ["opt", "gptj", "gpt_neox", "gpt_neo", "llama", "qwen2", "mistral", "bloom"]
WAYS: list[dict[str, Any]] = [
    {"batching": "static"},
    {"batching": "continuous"},
    {"batching": "static", "use_meta_tensor": False},
]
LENGTHS = [12, 5, 9]
NEW_TOKENS = 10


@dataclass
class Outcome:
    """What an engine made of a model."""

    tokens: list[list[int]]
    parameter_bytes: int
    batching: str
    note: str


def answer(context: RankContext, cases: list[tuple[str, dict[str, Any]]]) -> list[Outcome | str]:
    """On each rank: load each case's engine and generate a batch, or say why it could not be loaded."""
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine

    outcomes: list[Outcome | str] = []
    for model, settings in cases:
        config = EngineConfig(**{"max_tokens": 128, "dtype": "int8", "verify": "off", **settings})
        engine = DeepSpeedEngine(EngineSpec(model=model, config=config), context)
        try:
            report = engine.load()
        except Exception as error:
            outcomes.append(f"{type(error).__name__}: {error}")
            continue
        generation = GenerationConfig(max_new_tokens=NEW_TOKENS)
        answers = engine.generate(GenerateBatch(prompts=prompts(LENGTHS), generation=generation))
        found = [list(row[0].token_ids) for row in answers]
        outcomes.append(Outcome(found, report.parameter_bytes, report.batching, report.note))
        engine.close()
    return outcomes


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    found = {family: write_tiny_model(family, root / family) for family in FAMILIES}
    found["uneven"] = write_tiny_model(
        "llama", root / "uneven", hidden_size=96, num_attention_heads=6, num_key_value_heads=3, intermediate_size=160
    )
    found["float16"] = write_tiny_model("opt", root / "float16", dtype="float16")
    return found


@pytest.fixture(scope="module")
def expected(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[int]]]:
    root = tmp_path_factory.mktemp("rounded")
    return {
        name: plain_greedy(write_rounded(directory, root / name), prompts(LENGTHS), NEW_TOKENS)
        for name, directory in models.items()
    }


def in_all_ways(*names: str) -> list[tuple[str, dict[str, Any]]]:
    return [(name, way) for name in names for way in WAYS]


def check(
    world_size: int,
    named: list[tuple[str, dict[str, Any]]],
    models: dict[str, Path],
    expected: dict[str, list[list[int]]],
) -> list[Outcome]:
    """Run cases on some ranks, and compare each one's tokens; returns what came of them."""
    outcomes = run_ranks(world_size, answer, [(str(models[name]), way) for name, way in named], timeout_s=300)
    for (name, way), outcome in zip(named, outcomes, strict=True):
        assert isinstance(outcome, Outcome), outcome
        assert outcome.tokens == expected[name], (name, way)
        assert outcome.batching == way["batching"], (name, outcome.note)
    found: list[Outcome] = outcomes
    return found


def float32_bytes(directory: Path) -> int:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory)
    return sum(4 * parameter.numel() for parameter in model.parameters())


@pytest.fixture(scope="module")
def one_rank(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome | str]:
    root = tmp_path_factory.mktemp("refused")
    gptq = write_tiny_model("llama", root / "gptq")
    config = (gptq / "config.json").read_text()
    (gptq / "config.json").write_text(config.replace("{", '{"quantization_config": {"quant_method": "gptq"},', 1))
    alone = {"ds_inference": False}
    cases = {
        **{f"opt {number}": (models["opt"], way) for number, way in enumerate(WAYS)},
        "llama": (models["llama"], {"batching": "continuous"}),
        "llama alone": (models["llama"], alone),
        "gptq": (gptq, {}),
        "no linear layers": (write_tiny_model("gpt2", root / "gpt2"), alone),
        "others' int8": (quantised_by_others(root / "other"), {}),
    }
    found = run_ranks(1, answer, [(str(directory), way) for directory, way in cases.values()], timeout_s=300)
    return dict(zip(cases, found, strict=True))


def test_one_rank(one_rank: dict[str, Outcome | str], expected: dict[str, list[list[int]]]) -> None:
    for name in ("opt 0", "opt 1", "opt 2", "llama", "llama alone"):
        outcome = one_rank[name]
        assert isinstance(outcome, Outcome), outcome
        assert outcome.tokens == expected[name.split()[0]], name


def test_memory_of_a_rank(one_rank: dict[str, Outcome | str], models: dict[str, Path]) -> None:
    matrices = 3 * (4 * 64 * 64 + 2 * 64 * 256)  # of OPT's decoder layers
    saved = 3 * matrices - 3 * 4 * (4 * 64 + 256 + 64)  # 3 bytes of 4, but for scales of 4 bytes
    for number in range(len(WAYS)):
        outcome = one_rank[f"opt {number}"]
        assert isinstance(outcome, Outcome)
        assert outcome.parameter_bytes == float32_bytes(models["opt"]) - saved


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gptq", "UnsupportedError: dtype='int8' for this model is not supported: its weights are quantised already"),
        ("no linear layers", "only linear layers are quantised"),
        ("others' int8", r"WeightsMismatchError: .*up_proj.weight is int8"),
    ],
)
def test_what_cannot_be_quantised_is_refused(name: str, says: str, one_rank: dict[str, Outcome | str]) -> None:
    text = one_rank[name]
    assert isinstance(text, str), text
    assert re.search(says, text), text


def quantised_by_others(directory: Path) -> Path:
    """A checkpoint with int8 tensors that says nothing of them in its configuration."""
    from safetensors.torch import load_file, save_file

    write_tiny_model("llama", directory)
    tensors = load_file(directory / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].clamp(-1, 1).mul(127).to(torch.int8)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def test_two_ranks(models: dict[str, Path], expected: dict[str, list[list[int]]], tmp_path: Path) -> None:
    every = [(name, WAYS[1]) for name in (*FAMILIES, "float16")]
    own_part = {"batching": "continuous", "save_mp_checkpoint_path": str(tmp_path / "parts")}
    static = [("bloom", way) for way in WAYS if way["batching"] == "static"]
    cases = [*every, *in_all_ways("opt", "uneven"), ("uneven", own_part), *static]
    outcomes = check(2, cases, models, expected)
    # Rounding changes none of its few tokens; that its matrices are in int8 shows in what they take: in float32 a
    # rank would have two thirds of the whole.
    assert all(outcome.parameter_bytes < float32_bytes(models["bloom"]) / 2 for outcome in outcomes[-len(static) :])


def test_three_ranks_with_uneven_heads(models: dict[str, Path], expected: dict[str, list[list[int]]]) -> None:
    check(3, [("uneven", WAYS[1]), ("uneven", WAYS[2])], models, expected)
