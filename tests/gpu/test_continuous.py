"""Continuous batching on a GPU: its greedy tokens are those of plain transformers but for ties, however it attends."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from raydsinfer.config import Attention, EngineConfig, GenerationConfig
from raydsinfer.engines.base import Completion, EngineSpec, GenerateRequest, RankContext
from tests.gpu.shapes import SHAPES
from tests.gpu.ties import count_ties
from tests.models import prompts, write_tiny_model
from tests.ranks import run_ranks

LENGTHS = [40, 7, 23, 90, 1, 64, 33, 33, 120, 12, 5, 70]
NEW_TOKENS = 24
MOST_TIES = {"float16": 8, "bfloat16": 30}  # of 288 tokens
ATTENTIONS = [name for name in get_args(Attention) if name != "auto" and (name != "flashinfer" or find_spec(name))]

# Each way to attend, captured; one without graphs; one with compiled layers, as a GPU has them without settings.
VARIANTS: list[dict[str, Any]] = [
    *({"attention": name, "torch_compile": False} for name in ATTENTIONS),
    {"cuda_graphs": False, "torch_compile": False},
    {},
]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: write_tiny_model(family, root / family, scale=1.5, **shape) for family, shape in SHAPES.items()}


def answer(
    context: RankContext, directory: str, requests: list[list[int]], configs: list[EngineConfig]
) -> list[tuple[list[Completion], dict[str, float], str]]:
    """On each rank: the requests' completions by each configuration, with statistics and the note of the load."""
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine

    results: list[tuple[list[Completion], dict[str, float], str]] = []
    for config in configs:
        engine = DeepSpeedEngine(EngineSpec(model=directory, config=config), context)
        report = engine.load()
        if report.batching != "continuous":
            results.append(([], {}, report.note))
            continue
        generation = GenerationConfig(max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
        new = [GenerateRequest(key=key, token_ids=ids, generation=generation) for key, ids in enumerate(requests)]
        found: dict[int, Completion] = {}
        while len(found) < len(requests):
            done = engine.advance(new, num_steps=8)
            new = []
            found |= {one.key: one.completions[0] for one in done.answers}
        results.append(([found[key] for key in range(len(requests))], engine.statistics(), report.note))
        engine.close()
    return results


@pytest.mark.timeout(400)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("family", SHAPES)
def test_greedy_tokens_equal_transformers(directories: dict[str, Path], family: str, dtype: str, tp: int) -> None:
    requests, directory = prompts(LENGTHS), directories[family]
    common = EngineConfig(
        batching="continuous", max_tokens=256, max_running=8, max_step_tokens=64, kv_cache_bytes=1 << 30
    )
    # FlashInfer knows no biases of a part of the heads.
    variants = [variant for variant in VARIANTS if family != "bloom" or variant.get("attention") != "flashinfer"]
    configs = [common.replaced({"dtype": dtype, **variant}) for variant in variants]
    results = run_ranks(tp, answer, str(directory), requests, configs, device="cuda", timeout_s=300)
    wrong = []
    for variant, config, (completions, statistics, note) in zip(variants, configs, results, strict=True):
        what = f"{family} {dtype} tp {tp} {variant}"
        if note:
            wrong.append(f"{what}: {note}")
            continue
        tokens = [list(completion.token_ids) for completion in completions]
        try:
            ties = count_ties(directory, dtype, tokens, requests)
        except AssertionError as error:
            wrong.append(f"{what}: {error}")
            continue
        graphs = statistics["graph_steps"]
        print(f"{what}: {ties} ties, {graphs:.0f} graph steps")
        if (graphs > 0) != config.cuda_graphs or ties > MOST_TIES[dtype]:
            wrong.append(f"{what}: {ties} ties, {graphs:.0f} graph steps")
    assert not wrong


def test_memory_of_the_cache_follows_utilization(directories: dict[str, Path]) -> None:
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    config = EngineConfig(
        batching="continuous", dtype="float16", max_tokens=256, gpu_memory_utilization=0.5, torch_compile=False
    )
    run_ranks(1, used_memory, str(directories["llama"]), config, free, total, device="cuda")


def used_memory(context: RankContext, directory: str, config: EngineConfig, free: int, total: int) -> None:
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine

    engine = DeepSpeedEngine(EngineSpec(model=directory, config=config), context)
    report = engine.load()
    used = free - torch.cuda.mem_get_info()[0]
    assert report.num_kv_tokens > 0
    assert used <= 0.5 * total, f"{used} of {total} bytes are in use"
