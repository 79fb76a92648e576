"""The gate on real GPUs: right engines pass in 16 bits, wrong ones do not; what it costs at the start.

A start of processes costs more than an engine's load, so several engines share one. Kernels need a process each.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raydsinfer.errors import VerificationError
from tests.gate_cases import Case, load
from tests.gpu.shapes import SHAPES
from tests.models import write_tiny_model
from tests.ranks import run_ranks

MAX_TOKENS = 1024


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        family: write_tiny_model(family, root / family, scale=1.5, max_position_embeddings=2048, **shape)
        for family, shape in SHAPES.items()
    }


def loaded(tp: int, cases: list[Case]) -> list[Case]:
    """Load one engine after the other on some ranks."""
    for case in cases:
        # A cache of its own size: others may be at work on these GPUs.
        case.config = {"max_tokens": MAX_TOKENS, "max_batch_size": 8, "kv_cache_bytes": 1 << 30, **case.config}
    done: list[Case] = run_ranks(tp, load, cases, timeout_s=550, device="cuda")
    return done


def assert_right(case: Case) -> None:
    assert case.source == "transformers"
    assert case.report is not None
    report, found = case.report, case.report.verification
    assert found is not None
    assert max(canary.num_prompt_tokens for canary in found.canaries) == MAX_TOKENS - 6
    share = max(canary.largest_gap / canary.allowed_gap for canary in found.canaries)
    ties = sum(canary.num_ties for canary in found.canaries)
    seconds = f"verify {report.phases_s['verify']:.2f} s of {sum(report.phases_s.values()):.2f} s"
    print(f"{case.model.name} {case.config}: {seconds}; {share:.2f} of what is allowed; {ties} ties")


@pytest.mark.timeout(400)
def test_right_engines_pass(directories: dict[str, Path], tp: int) -> None:
    cases = [
        # Compiling layers takes half a minute: once for each family.
        Case(directories[family], {"dtype": dtype, "batching": batching, **compiled})
        for family in SHAPES
        for batching in ("continuous", "static")
        for dtype, compiled in (("float16", {}), ("bfloat16", {"torch_compile": False}))
    ]
    print()
    for case in loaded(tp, cases):
        assert_right(case)


@pytest.mark.parametrize(("family", "dtype"), [("opt", "float16"), ("opt", "bfloat16"), ("bloom", "float16")])
def test_right_kernels_pass(directories: dict[str, Path], family: str, dtype: str, tp: int) -> None:
    [case] = loaded(tp, [Case(directories[family], {"dtype": dtype, "kernel_inject": True})])
    assert_right(case)


def test_wrong_engines_do_not(directories: dict[str, Path]) -> None:
    continuous = {"dtype": "float16", "batching": "continuous", "torch_compile": False}
    static = {"dtype": "float16", "batching": "static"}
    cases = [
        Case(directories["llama"], continuous, "swap_qkv"),
        Case(directories["llama"], continuous, "empty_layer"),
        Case(directories["llama"], static, "skip_layer"),
        Case(directories["llama"], continuous, "change_rotary_base"),
        Case(directories["llama"], static, "ignore_padding"),
        Case(directories["opt"], static, "ignore_padding"),
    ]
    print()
    for case in loaded(1, cases):
        assert isinstance(case.error, VerificationError), str(case)
        print(f"{case.model.name} {case.config} {case.fault}: {case.differences.splitlines()[0]}")


def test_wrong_kernels_do_not(directories: dict[str, Path]) -> None:
    [case] = loaded(1, [Case(directories["opt"], {"dtype": "float16", "kernel_inject": True}, "bend_injected")])
    assert isinstance(case.error, VerificationError)


def test_a_rank_with_other_weights(directories: dict[str, Path]) -> None:
    wrong = Case(directories["llama"], {"dtype": "float16", "torch_compile": False}, "change_embedding_of_other_rank")
    [case] = loaded(2, [wrong])
    assert isinstance(case.error, VerificationError)


def test_the_reference_leaves_no_memory_behind(directories: dict[str, Path]) -> None:
    from raydsinfer.engines.verification.canaries import canary_batches
    from raydsinfer.engines.verification.computing import compute_references

    batches = canary_batches(vocab_size=32000, special_ids=(0, 1, 2), max_tokens=1024, max_batch_size=4, on_cpu=False)
    canaries = [canary for batch in batches for canary in batch]
    _ = torch.ones(8, 8, device="cuda", dtype=torch.float16) @ torch.ones(8, 8, device="cuda", dtype=torch.float16)
    torch.cuda.empty_cache()  # what is left is the workspace of cuBLAS, which every model needs
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
