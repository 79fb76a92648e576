from __future__ import annotations

from typing import Any

import pytest

from raydsinfer.bench.throughput.workspace import workspace_bytes
from raydsinfer.config import EngineConfig
from raydsinfer.planning.memory import CUDA_BYTES, KERNELS_FREE_BYTES, Memory, rank_memory
from raydsinfer.planning.verdicts import Engine
from tests.unit.planning.facts import GIB, model


def memory(
    family: str,
    engine: Engine,
    num_ranks: int = 1,
    gib: float | None = 79,
    dtype: str = "float16",
    use_gpu: bool = True,
    **settings: Any,
) -> Memory:
    device_bytes = None if gib is None else int(gib * GIB)
    return rank_memory(
        model(family), EngineConfig(**settings), engine, dtype, num_ranks, use_gpu=use_gpu, device_bytes=device_bytes
    )


def test_llama_8b_on_an_a100() -> None:
    found = memory("llama", "continuous")
    assert found.weights_bytes == 2 * 8_030_261_248
    assert found.kv_bytes_per_token == 2 * 32 * 8 * 128 * 2  # keys and values, layers, heads, size, bytes
    assert found.overhead_bytes > CUDA_BYTES
    assert (found.largest_batch, found.wanted_rows, found.problem) == (256, 256, "")
    longer = memory("llama", "continuous", max_tokens=8192)
    assert longer.kv_bytes is not None
    unused = 0.9 * 79 * GIB - longer.weights_bytes - longer.overhead_bytes - longer.kv_bytes
    assert 0 <= unused < 16 * longer.kv_bytes_per_token  # less than a page
    assert longer.largest_batch == (longer.kv_tokens or 0) // 8192 < 256


def test_fewer_bytes_with_more_ranks_and_heads_that_do_not_divide() -> None:
    one, two, three = (memory("llama", "continuous", num_ranks) for num_ranks in (1, 2, 3))
    assert one.weights_bytes > two.weights_bytes > three.weights_bytes
    assert two.kv_bytes_per_token * 2 == one.kv_bytes_per_token
    assert three.kv_bytes_per_token * 8 == one.kv_bytes_per_token * 3  # the fullest of 3 has 3 of 8 heads


def test_what_does_not_fit_says_how_much_it_would_need() -> None:
    found = memory("llama", "continuous", gib=15)
    assert (found.largest_batch, found.kv_tokens, found.kv_bytes) == (0, 0, 0)
    assert "one row of max_tokens=1024 needs 128.0 MiB beside 16." in found.problem
    assert "on a GPU of 15.0 GiB" in found.problem
    assert "more GPUs a gang" in found.hint
    assert memory("llama", "continuous", 2, gib=15).problem == ""


def test_a_gpu_of_unknown_memory() -> None:
    for engine in ("continuous", "static", "kernel_inject"):
        found = memory("opt", engine, gib=None)  # type: ignore[arg-type]
        assert (found.largest_batch, found.kv_bytes, found.problem) == (None, None, "")


def test_a_cache_of_a_given_size() -> None:
    found = memory("llama", "continuous", kv_cache_bytes=10 * GIB)
    assert found.kv_tokens == 10 * GIB // (16 * found.kv_bytes_per_token) * 16 - 16
    assert found.largest_batch == (found.kv_tokens or 0) // 1024
    over = memory("llama", "continuous", kv_cache_bytes=70 * GIB)
    assert "more than the GPU has" in over.problem


def test_kernels_reserve_all_rows_or_refuse() -> None:
    found = memory("opt", "kernel_inject")
    row = workspace_bytes(model("opt").config, rows=1, tokens=1024, tp_size=1, item_size=2)
    assert (found.largest_batch, found.kv_bytes) == (32, 32 * row)
    tight = memory("opt", "kernel_inject", gib=40)
    left = 40 * GIB - tight.weights_bytes - tight.overhead_bytes - KERNELS_FREE_BYTES
    assert tight.largest_batch == left // row < 32
    assert f"Lower max_batch_size to {tight.largest_batch}" in tight.hint
    assert memory("opt", "kernel_inject", gib=40, max_batch_size=tight.largest_batch).problem == ""


def test_static_batches_and_cpu_ranks() -> None:
    static = memory("llama", "static", gib=79)
    assert (static.largest_batch, static.wanted_rows) == (32, 32)
    cpu = memory("llama", "continuous", gib=None, dtype="float32", use_gpu=False)
    assert (cpu.largest_batch, cpu.kv_tokens) == (32, 32 * 1024)
    assert cpu.weights_bytes == 4 * 8_030_261_248
    assert cpu.overhead_bytes < memory("llama", "continuous", dtype="float32").overhead_bytes


@pytest.mark.parametrize(("dtype", "item"), [("float32", 4), ("bfloat16", 2), ("float16", 2)])
def test_bytes_of_a_parameter(dtype: str, item: int) -> None:
    found = memory("llama", "static", dtype=dtype)
    assert found.weights_bytes == item * found.num_parameters
    assert found.kv_bytes_per_token == 2 * 32 * 8 * 128 * item


def test_int8_keeps_embeddings_head_and_norms_in_16_bits() -> None:
    found = memory("llama", "static", dtype="int8")
    in_16_bits = 2 * 128_256 * 4096 + (2 * 32 + 1) * 4096
    assert found.weights_bytes == found.num_parameters + in_16_bits
    assert found.kv_bytes_per_token == 2 * 32 * 8 * 128 * 2


def test_kernels_reserve_more_rows_where_activations_need_them() -> None:
    few, many = (memory("opt", "kernel_inject", num_ranks=n) for n in (1, 4))
    assert few.kv_bytes is not None
    assert many.kv_bytes is not None
    assert many.kv_bytes > few.kv_bytes / 4
