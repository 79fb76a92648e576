"""Weights in int8 on a GPU: the compiled kernel's products, and texts with it, captured, beside products of floats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.engines.base import EngineSpec, GenerateRequest, RankContext
from raydsinfer.engines.int8.blocks import KERNEL_ROWS
from raydsinfer.engines.int8.linear import Int8Linear
from raydsinfer.engines.int8.product import int8_linear
from raydsinfer.engines.int8.trial import kernel_problem
from tests.gpu.shapes import SHAPES
from tests.gpu.ties import count_ties
from tests.models import prompts, write_rounded, write_tiny_model
from tests.ranks import run_ranks

LENGTHS = [40, 7, 23, 90, 1, 64, 33, 33, 120, 12, 5, 70]
NEW_TOKENS = 24
MOST_TIES = {"float16": 12, "bfloat16": 30}  # of 288 tokens


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_kernel_gives_the_products_of_floats(dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU has no bfloat16")
    for outputs, inputs in ((4096, 4096), (1000, 513), (11008, 4096)):
        layer = Int8Linear(inputs, outputs, bias=True, dtype=dtype, device="cuda")
        layer.quantise(torch.randn(outputs, inputs, device="cuda", dtype=dtype) * 0.02)
        assert layer.bias is not None
        layer.bias.data.normal_()
        assert kernel_problem(layer) == ""
        for rows in (1, 2, 16, 17, 64, 100, KERNEL_ROWS, KERNEL_ROWS + 1):
            hidden = torch.randn(rows, inputs, device="cuda", dtype=dtype)
            answer = int8_linear(hidden, layer.weight, layer.scale, layer.bias, True)
            weight = layer.weight * layer.scale
            if rows > KERNEL_ROWS:  # then floats are made of the weights: once more a rounding
                expected = torch.nn.functional.linear(hidden, weight.to(dtype), layer.bias)
                torch.testing.assert_close(answer, expected, atol=0, rtol=0)
            else:
                exact = hidden.double() @ weight.double().T + layer.bias.double()
                torch.testing.assert_close(answer.double(), exact, atol=1e-3, rtol=2 * torch.finfo(dtype).eps)


def answer(
    context: RankContext, directories: list[str], requests: list[list[int]]
) -> list[tuple[list[list[int]], int]]:
    """On each rank: each model's new tokens, and how many steps were captured ones."""
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine
    from raydsinfer.engines.int8.replace import int8_layers

    config = EngineConfig(dtype="int8", batching="continuous", max_tokens=256, kv_cache_bytes=1 << 30, verify="off")
    generation = GenerationConfig(max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
    results = []
    for directory in directories:
        engine = DeepSpeedEngine(EngineSpec(model=directory, config=config), context)
        engine.load()
        assert all(layer.kernel for layer in int8_layers(engine.model).values())
        asked = [GenerateRequest(key=k, token_ids=ids, generation=generation) for k, ids in enumerate(requests)]
        answers = engine.advance(asked, num_steps=10_000).answers
        found = {one.key: list(one.completions[0].token_ids) for one in answers}
        results.append(([found[key] for key in range(len(asked))], int(engine.statistics()["graph_steps"])))
        engine.close()
    return results


@pytest.mark.timeout(400)
def test_texts_are_those_of_rounded_weights_but_for_ties(tp: int, tmp_path: Path) -> None:
    # Activations in both dtypes that a model may be saved in: the kernel makes floats of integers in different ways.
    models = {
        f"{family} {dtype}": write_tiny_model(
            family, tmp_path / family / dtype, scale=1.5, **{**SHAPES[family], "dtype": dtype}
        )
        for family, dtype in (("opt", "float16"), ("llama", "float16"), ("llama", "bfloat16"))
    }
    requests = prompts(LENGTHS)
    results = run_ranks(tp, answer, list(map(str, models.values())), requests, device="cuda", timeout_s=400)
    for (name, source), (tokens, graph_steps) in zip(models.items(), results, strict=True):
        dtype = name.split()[1]
        # In float32: to make the rounded weights 16-bit numbers would round them once more, which int8 does not.
        rounded = write_rounded(source, tmp_path / "rounded" / name)
        ties = count_ties(rounded, dtype, tokens, requests)
        print(f"{name}, tp {tp}: {ties} ties of {NEW_TOKENS * len(LENGTHS)}, {graph_steps} graph steps")
        assert graph_steps > 0
        assert ties <= MOST_TIES[dtype]
