from __future__ import annotations

from typing import Any

import pytest

from raydsinfer.bench.roofline import ModelCost, Rates, floor_of, model_cost
from raydsinfer.bench.shapes import shape
from raydsinfer.bench.workloads import BenchRequest, Workload, mixed, shared_prefix, uniform

COST = ModelCost(weight_bytes=1000, kv_bytes_per_token=10, block_parameters=400, head_parameters=100, attention_width=8)
MEMORY_BOUND = Rates(bytes_per_s=1.0, operations_per_s=1e9)
COMPUTE_BOUND = Rates(bytes_per_s=1e9, operations_per_s=1.0)


def requests(*sizes: tuple[int, int]) -> Workload:
    return Workload(name="w", requests=tuple(BenchRequest(tuple(range(p)), n) for p, n in sizes))


def test_a_request_by_hand() -> None:
    workload = requests((3, 3))  # two decode steps, that see 4 and 5 tokens
    floor = floor_of(workload, COST, MEMORY_BOUND, 256)
    assert floor.num_decode_steps == 2
    assert floor.decode_s == 2 * 1000 + 10 * (4 + 5)
    assert floor.step_s == floor.decode_s / 2
    floor = floor_of(workload, COST, COMPUTE_BOUND, 256)
    assert floor.decode_s == 2 * 500 * 2 + 4 * 8 * (4 + 5)
    assert floor.prefill_s == 2 * 400 * 3 + 2 * 100 + 2 * 8 * 9
    assert floor.seconds == floor.overlapped_s == floor.decode_s + floor.prefill_s  # nothing hides behind memory


@pytest.mark.parametrize(
    ("sizes", "max_running", "steps"),
    [
        ([(1, 5)] * 4, 4, 4),
        ([(1, 5)] * 4, 2, 8),
        ([(1, 5)] * 4, 3, 6),  # 16 tokens by threes
        ([(1, 100), (1, 2)], 8, 99),  # the longest answer
        ([(1, 1)], 8, 0),  # the prompt's own step is enough
    ],
)
def test_the_fewest_steps(sizes: list[tuple[int, int]], max_running: int, steps: int) -> None:
    assert floor_of(requests(*sizes), COST, MEMORY_BOUND, max_running).num_decode_steps == steps


def test_a_shared_beginning_is_read_once() -> None:
    workload = shared_prefix(4, 100)
    alone = Workload(name="w", requests=workload.requests)
    once, each = (floor_of(w, COST, COMPUTE_BOUND, 256).prefill_s for w in (workload, alone))
    saved = 3 * (2 * COST.block_parameters * 100 + 2 * COST.attention_width * 100**2)
    assert each - once == saved


def cost_of(name: str, tp_size: int = 1, mode: str = "autotp", item_size: int = 2, **counts: int) -> ModelCost:
    from transformers import AutoConfig

    fields: dict[str, Any] = shape(name)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    return model_cost(config, tp_size=tp_size, mode=mode, item_size=item_size, **counts)


def test_opt_13b_on_a_gpu_of_3_tb_a_second() -> None:
    cost = cost_of("opt-13b", num_parameters=12_853_473_280, parameter_bytes=25_706_946_560)
    assert cost.weight_bytes == 25_706_946_560  # the embedding is the head
    assert cost.kv_bytes_per_token == 2 * 40 * 5120 * 2
    floor = floor_of(uniform(1), cost, Rates(bytes_per_s=3.0e12, operations_per_s=700e12), 256)
    assert floor.step_s * 1000 == pytest.approx(8.6, abs=0.05)
    fast = floor_of(mixed(), cost, Rates(bytes_per_s=3.0e12, operations_per_s=700e12), 256)
    assert 4 < fast.overlapped_s < fast.seconds < 12


def test_weights_in_int8_leave_keys_values_and_embedding_in_float16() -> None:
    embedding = 128_256 * 4096
    counts = {"num_parameters": 8_030_261_248, "parameter_bytes": 8_030_261_248 + 2 * embedding}
    whole = cost_of("llama-8b", num_parameters=8_030_261_248, parameter_bytes=2 * 8_030_261_248)
    cost = cost_of("llama-8b", **counts)
    assert cost.kv_bytes_per_token == whole.kv_bytes_per_token
    assert cost.weight_bytes == 8_030_261_248  # the head among them, with 2 bytes a number


def test_an_embedding_that_is_only_looked_up_does_not_count() -> None:
    embedding = 128_256 * 4096
    cost = cost_of("llama-8b", num_parameters=8_030_261_248, parameter_bytes=2 * 8_030_261_248)
    assert cost.weight_bytes == 2 * (8_030_261_248 - embedding)
    assert cost.block_parameters == 8_030_261_248 - 2 * embedding
    assert cost.kv_bytes_per_token == 2 * 32 * 8 * 128 * 2
    half = cost_of("llama-8b", tp_size=3, num_parameters=3_000_000_000, parameter_bytes=6_000_000_000)
    assert half.kv_bytes_per_token == 2 * 32 * 3 * 128 * 2  # 8 heads on 3 ranks: one has 3
    assert half.head_parameters == embedding / 3
