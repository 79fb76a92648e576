"""The gate on real GPUs: right engines pass in 16 bits, wrong ones do not; what it costs at the start.

A start of processes costs more than an engine's load, so several engines share one. Kernels need a process each.
"""

from __future__ import annotations

from dataclasses import dataclass
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
DTYPES = ("float16", "bfloat16")


@dataclass
class Case:
    """An engine to load, perhaps a wrong one, and what came of it."""

    family: str
    config: dict[str, Any]
    fault: str = ""
    found: LoadReport | VerificationError | None = None

    def __str__(self) -> str:
        return f"{self.family} {self.config} {self.fault}"


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        family: write_tiny_model(family, root / family, scale=1.5, max_position_embeddings=2048, **shape)
        for family, shape in SHAPES.items()
    }


def load(context: RankContext, directories: dict[str, Path], cases: list[Case]) -> list[Case]:
    """On each rank: load one engine after the other."""
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine
    from tests.model_faults import damage

    for case in cases:
        settings = EngineConfig(**{"verify": "always", "max_tokens": MAX_TOKENS, "max_batch_size": 8, **case.config})
        engine = DeepSpeedEngine(EngineSpec(model=str(directories[case.family]), config=settings), context)
        if case.fault:
            damage(engine, case.fault)
        try:
            case.found = engine.load()
        except VerificationError as error:
            case.found = error
        finally:
            engine.close()
    return cases


def loaded(directories: dict[str, Path], tp: int, cases: list[Case]) -> list[Case]:
    done: list[Case] = run_ranks(tp, load, directories, cases, timeout_s=550, device="cuda")
    return done


def assert_right(case: Case) -> None:
    report = case.found
    assert isinstance(report, LoadReport), f"{case}: {report}"
    found = report.verification
    assert found is not None
    assert not found.problems
    assert max(canary.num_prompt_tokens for canary in found.canaries) == MAX_TOKENS - 6
    share = max(canary.largest_gap / canary.allowed_gap for canary in found.canaries)
    ties = sum(canary.num_ties for canary in found.canaries)
    seconds = f"verify {report.phases_s['verify']:.2f} s of {sum(report.phases_s.values()):.2f} s"
    print(f"{case}: {seconds}; {share:.2f} of what is allowed; {ties} ties")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("tp", [1, 2])
def test_right_engines_pass(directories: dict[str, Path], tp: int, request: pytest.FixtureRequest) -> None:
    if tp == 2:
        request.getfixturevalue("two_gpus")
    cases = [
        Case(family, {"dtype": dtype, "batching": batching, **compiled})
        for family in SHAPES
        for batching in ("continuous", "static")
        # Compiling layers takes half a minute: once for each family.
        for dtype, compiled in (("float16", {}), ("bfloat16", {"torch_compile": False}))
    ]
    print()
    for case in loaded(directories, tp, cases):
        assert_right(case)


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_right_kernels_pass(directories: dict[str, Path], dtype: str, tp: int, request: pytest.FixtureRequest) -> None:
    if tp == 2:
        request.getfixturevalue("two_gpus")
    [case] = loaded(directories, tp, [Case("opt", {"dtype": dtype, "kernel_inject": True})])
    assert_right(case)


def test_wrong_engines_do_not(directories: dict[str, Path]) -> None:
    continuous = {"dtype": "float16", "batching": "continuous", "torch_compile": False}
    static = {"dtype": "float16", "batching": "static"}
    cases = [
        Case("llama", continuous, "swap_qkv"),
        Case("llama", continuous, "empty_layer"),
        Case("llama", static, "skip_layer"),
        Case("llama", continuous, "change_rotary_base"),
        Case("llama", static, "ignore_padding"),
        Case("opt", static, "ignore_padding"),
    ]
    print()
    for case in loaded(directories, 1, cases):
        assert isinstance(case.found, VerificationError), str(case)
        print(f"{case}: {case.found.attempts[0][1][0]}")


def test_wrong_kernels_do_not(directories: dict[str, Path]) -> None:
    [case] = loaded(directories, 1, [Case("opt", {"dtype": "float16", "kernel_inject": True}, "bend_injected")])
    assert isinstance(case.found, VerificationError)


def test_a_rank_with_other_weights(directories: dict[str, Path], two_gpus: None) -> None:
    wrong = Case("llama", {"dtype": "float16", "torch_compile": False}, "change_embedding_of_other_rank")
    [case] = loaded(directories, 2, [wrong])
    assert isinstance(case.found, VerificationError)


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
