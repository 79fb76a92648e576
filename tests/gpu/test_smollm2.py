"""A trained model on GPUs, SmolLM2-135M: 9 heads over 3 key-value heads, with one rank, two and three.

The small models of the other tests have random weights, whose best tokens are close together; a trained one shows
that text is text.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from raydsinfer.demo.model import demo_model
from raydsinfer.engines.tokenizer import HuggingFaceTokenizer
from tests.engine_cases import Case, answer, tokens
from tests.gpu.ties import count_ties
from tests.models import write_rounded
from tests.ranks import run_ranks
from tests.smollm2 import NEEDS_SMOLLM2, smollm2_prompts

pytestmark = [pytest.mark.timeout(400), NEEDS_SMOLLM2]
NEW_TOKENS = 48
MOST_TIES = 0.05  # of all tokens
# All but int8, for which there is no such comparison, are compared by the gate, too.
COMMON = {"max_tokens": 256, "kv_cache_bytes": 1 << 28, "verify": "always"}


@pytest.fixture(scope="module")
def model() -> str:
    return demo_model()


@pytest.fixture(scope="module")
def requests(model: str) -> list[list[int]]:
    return smollm2_prompts(model)


def answers(
    model: str, world_size: int, configs: list[dict[str, object]], requests: list[list[int]]
) -> list[list[list[int]]]:
    """New tokens of each engine, one loaded after the other."""
    settings = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    cases = [Case(model, {**COMMON, "max_batch_size": 8, **config}, [(requests, settings)]) for config in configs]
    done: list[Case] = run_ranks(world_size, answer, cases, device="cuda", timeout_s=300)
    return [tokens(case.answers[0]) for case in done]


def assert_right(model: str, dtype: str, got: list[list[int]], requests: list[list[int]], what: str) -> None:
    assert HuggingFaceTokenizer(model).decode(got[0]).startswith(" Paris")
    assert [len(row) for row in got] == [NEW_TOKENS] * len(requests)
    ties = count_ties(Path(model), dtype, got, requests)
    print(f"{what}: {ties} ties of {NEW_TOKENS * len(requests)}")
    assert ties <= MOST_TIES * NEW_TOKENS * len(requests)


@pytest.mark.parametrize("world_size", [1, 2])
def test_autotp(model: str, requests: list[list[int]], world_size: int) -> None:
    configs = [(batching, dtype) for batching in ("continuous", "static") for dtype in ("float16", "bfloat16")]
    given: list[dict[str, object]] = [{"batching": batching, "dtype": dtype} for batching, dtype in configs]
    for (batching, dtype), got in zip(configs, answers(model, world_size, given, requests), strict=True):
        assert_right(model, dtype, got, requests, f"{batching}, {dtype}, tp {world_size}")


@pytest.mark.parametrize("world_size", [1, 3])
def test_kernels(model: str, requests: list[list[int]], world_size: int) -> None:
    [got] = answers(model, world_size, [{"kernel_inject": True, "dtype": "float16"}], requests)
    assert_right(model, "float16", got, requests, f"kernels, float16, tp {world_size}")


@pytest.mark.parametrize("world_size", [1, 2])
def test_int8(model: str, requests: list[list[int]], world_size: int, tmp_path: Path) -> None:
    [got] = answers(model, world_size, [{"batching": "continuous", "dtype": "int8", "verify": "off"}], requests)
    rounded = str(write_rounded(Path(model), tmp_path / "rounded"))
    assert_right(rounded, "float16", got, requests, f"int8, tp {world_size}")
