"""The gate on real GPUs: right engines pass in 16 bits, wrong ones do not; what it costs at the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raydsinfer.config import EngineConfig
from raydsinfer.engines.base import EngineSpec, LoadReport, RankContext
from raydsinfer.errors import VerificationError
from tests.gpu.shapes import SHAPES
from tests.models import write_tiny_model
from tests.ranks import run_ranks

MAX_TOKENS = 1024
WAYS: dict[str, dict[str, Any]] = {
    "continuous": {"batching": "continuous"},
    "static": {"batching": "static"},
    "kernels": {"kernel_inject": True},
}


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        family: write_tiny_model(family, root / family, scale=1.5, max_position_embeddings=2048, **shape)
        for family, shape in SHAPES.items()
    }


def load(context: RankContext, model: str, config: dict[str, Any], fault: str) -> LoadReport | VerificationError:
    """On each rank: load an engine, perhaps a wrong one."""
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine
    from tests.model_faults import damage

    settings = EngineConfig(verify="always", max_tokens=MAX_TOKENS, max_batch_size=8, **config)
    engine = DeepSpeedEngine(EngineSpec(model=model, config=settings), context)
    if fault:
        damage(engine, fault)
    try:
        return engine.load()
    except VerificationError as error:
        return error
    finally:
        engine.close()


def loaded(directory: Path, tp: int, config: dict[str, Any], fault: str = "") -> LoadReport | VerificationError:
    answer: LoadReport | VerificationError = run_ranks(
        tp, load, str(directory), config, fault, timeout_s=550, device="cuda"
    )
    return answer


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("family", "way"),
    [("opt", "continuous"), ("opt", "static"), ("opt", "kernels"), ("llama", "continuous"), ("llama", "static")],
)
def test_right_engines_pass(
    directories: dict[str, Path], family: str, way: str, dtype: str, tp: int, request: pytest.FixtureRequest
) -> None:
    if tp == 2:
        request.getfixturevalue("two_gpus")
    report = loaded(directories[family], tp, {"dtype": dtype, **WAYS[way]})
    assert isinstance(report, LoadReport), report
    found = report.verification
    assert found is not None
    assert not found.problems
    assert max(canary.num_prompt_tokens for canary in found.canaries) == MAX_TOKENS - 6
    share = max(canary.largest_gap / canary.allowed_gap for canary in found.canaries)
    ties = sum(canary.num_ties for canary in found.canaries)
    seconds = f"verify {report.phases_s['verify']:.2f} s of {sum(report.phases_s.values()):.2f} s"
    print(f"\n{family} {way} {dtype} tp {tp}: {seconds}; {share:.2f} of what is allowed; {ties} ties")


@pytest.mark.parametrize(
    ("family", "way", "fault"),
    [
        ("llama", "continuous", "swap_qkv"),
        ("llama", "continuous", "empty_layer"),
        ("llama", "static", "skip_layer"),
        ("llama", "continuous", "change_rotary_base"),
        ("llama", "static", "ignore_padding"),
        ("opt", "static", "ignore_padding"),
        ("opt", "kernels", "bend_injected"),
    ],
)
def test_wrong_engines_do_not(directories: dict[str, Path], family: str, way: str, fault: str) -> None:
    error = loaded(directories[family], 1, {"dtype": "float16", **WAYS[way]}, fault)
    assert isinstance(error, VerificationError), error
    print(f"\n{family} {way} {fault}: {error.attempts[0][1][0]}")


def test_a_rank_with_other_weights(directories: dict[str, Path], two_gpus: None) -> None:
    error = loaded(directories["llama"], 2, {"dtype": "float16"}, "change_embedding_of_other_rank")
    assert isinstance(error, VerificationError), error


def test_the_reference_leaves_no_memory_behind(directories: dict[str, Path]) -> None:
    from raydsinfer.engines.verification.canaries import canary_batches
    from raydsinfer.engines.verification.computing import compute_references

    batches = canary_batches(vocab_size=32000, special_ids=(0, 1, 2), max_tokens=1024, max_batch_size=4, on_cpu=False)
    canaries = [canary for batch in batches for canary in batch]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    directory = directories["llama"]
    compute_references(
        directory, canaries, [[5] * 6] * len(canaries), dtype=torch.float16, device="cuda:0", forbidden=[{2}] * 6
    )
    assert torch.cuda.memory_reserved() == before
    whole = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    peak = torch.cuda.max_memory_allocated()
    print(f"\npeak {peak / 2**20:.0f} MiB for a model of {whole / 2**20:.0f} MiB in float32")
    assert peak < whole
