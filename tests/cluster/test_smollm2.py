"""A real language model: SmolLM2-135M, whose 9 heads and 3 key-value heads 2 CPU ranks share unevenly."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.demo.model import demo_model
from raydsinfer.engines.base import EngineSpec, GenerateBatch, RankContext
from raydsinfer.engines.tokenizer import HuggingFaceTokenizer
from tests.models import plain_greedy, write_rounded
from tests.ranks import run_ranks
from tests.smollm2 import NEEDS_SMOLLM2, smollm2_prompts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420), NEEDS_SMOLLM2]
NEW_TOKENS = 16


def answer(context: RankContext, model: str, prompts: list[list[int]]) -> list[list[list[int]]]:
    """On each rank: tokens with weights in float32, then in int8."""
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine

    found = []
    for config in (EngineConfig(max_tokens=128, dtype="float32"), EngineConfig(max_tokens=128, dtype="int8")):
        engine = DeepSpeedEngine(EngineSpec(model=model, config=config), context)
        engine.load()
        generation = GenerationConfig(max_new_tokens=NEW_TOKENS)
        answers = engine.generate(GenerateBatch(prompts=prompts, generation=generation))
        found.append([list(row[0].token_ids) for row in answers])
        engine.close()
    return found


@pytest.fixture(scope="module")
def model() -> str:
    return demo_model()


@pytest.fixture(scope="module")
def prompts(model: str) -> list[list[int]]:
    return smollm2_prompts(model)


@pytest.fixture(scope="module")
def expected(model: str, prompts: list[list[int]]) -> list[list[int]]:
    return plain_greedy(Path(model), prompts, NEW_TOKENS)


@pytest.fixture(scope="module")
def expected_int8(model: str, prompts: list[list[int]], tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    rounded = write_rounded(Path(model), tmp_path_factory.mktemp("rounded"))
    return plain_greedy(rounded, prompts, NEW_TOKENS)


def test_the_reference_makes_sense(model: str, expected: list[list[int]]) -> None:
    decode = HuggingFaceTokenizer(model).decode
    assert decode(expected[0]).startswith(" Paris")
    assert decode(expected[4]) == "The capital of France is Paris."


def test_tokens_equal_transformers(
    model: str, prompts: list[list[int]], expected: list[list[int]], expected_int8: list[list[int]]
) -> None:
    floats, int8 = run_ranks(2, answer, model, prompts, timeout_s=300)
    assert floats == expected
    assert int8 == expected_int8
