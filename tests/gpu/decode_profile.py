"""Where does a decode step go on several ranks? Kernels by kind, and what summing over the ranks costs by itself.

    python -m tests.gpu.decode_profile --shape opt-13b --tp 2 --rows 1

Steps of the continuous engine are profiled (captured, so gaps between kernels are the device's own). Then sums of
a step's size are captured alone: NCCL's all-reduce, and one in which each rank reads what the others have in
symmetric memory (no multicast).
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from raydsinfer.bench.random_model import write_random_model
from raydsinfer.bench.shapes import shape
from raydsinfer.bench.throughput.runners import exactly
from raydsinfer.config import EngineConfig
from raydsinfer.engines.base import EngineSpec, GenerateRequest, RankContext
from tests.gpu.captured import captured_us
from tests.ranks import run_ranks

PROFILED_STEPS, SUMS_A_GRAPH, REPLAYS = 16, 80, 50
KINDS = {  # kind → words in the names of its kernels
    "sum over ranks": ("nccl", "allreduce", "all_reduce"),
    "attention": ("decode", "merge", "attention"),
    "matrix products": ("gemm", "gemv", "cublas", "cutlass", "nvjet", "splitk"),
    "compiled": ("triton",),
    "copies": ("memcpy", "memset"),
}


def profile(context: RankContext, spec: EngineSpec, rows: int) -> dict[str, Any]:
    """On each rank."""
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine

    engine = DeepSpeedEngine(spec, context)
    engine.load()
    new = [GenerateRequest(key=k, token_ids=[7] * 128, generation=exactly(120)) for k in range(rows)]
    engine.advance(new, num_steps=24)
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiled:
        engine.advance([], num_steps=PROFILED_STEPS)
        torch.cuda.synchronize()
    kernels = [e for e in profiled.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    spent: dict[str, float] = defaultdict(float)
    names: dict[str, float] = defaultdict(float)
    for kernel in kernels:
        us = kernel.time_range.elapsed_us()
        spent[_kind(kernel.name)] += us
        names[kernel.name[:60]] += us
    span = max(k.time_range.end for k in kernels) - min(k.time_range.start for k in kernels)
    return {
        "ms_a_step": span / PROFILED_STEPS / 1000,
        "kernels_a_step": len(kernels) / PROFILED_STEPS,
        "busy_ms_a_step": sum(spent.values()) / PROFILED_STEPS / 1000,
        "by_kind_ms": {kind: us / PROFILED_STEPS / 1000 for kind, us in sorted(spent.items(), key=lambda i: -i[1])},
        "other_kernels_ms": {
            name: us / PROFILED_STEPS / 1000
            for name, us in sorted(names.items(), key=lambda i: -i[1])
            if _kind(name) == "other"
        },
        "sums_us": sums(rows, int(shape_width(spec))),
    }


def _kind(name: str) -> str:
    low = name.lower()
    return next((kind for kind, words in KINDS.items() if any(word in low for word in words)), "other")


def shape_width(spec: EngineSpec) -> int:
    return int(json.loads((Path(spec.model) / "config.json").read_text())["hidden_size"])


def sums(rows: int, width: int) -> dict[str, Any]:
    """Microseconds of one sum of `rows` by `width` float16 numbers, captured one after the other."""
    if torch.distributed.get_world_size() == 1:
        return {}
    values = torch.ones(rows, width, dtype=torch.float16, device="cuda")
    found: dict[str, Any] = {
        "nccl": captured_us([lambda: torch.distributed.all_reduce(values)] * SUMS_A_GRAPH, replays=REPLAYS)
    }
    try:
        import torch.distributed._symmetric_memory as symmetric

        group = torch.distributed.group.WORLD
        buffer = symmetric.empty(rows, width, dtype=torch.float16, device="cuda")
        symmetric.rendezvous(buffer, group)
        name = group.group_name

        def one_shot() -> None:
            torch.ops.symm_mem.one_shot_all_reduce_copy(buffer, values, "sum", name)

        values.fill_(1)
        total = torch.ops.symm_mem.one_shot_all_reduce_copy(buffer, values, "sum", name)
        found["one_shot_is_right"] = bool((total == torch.distributed.get_world_size()).all())
        found["one_shot"] = captured_us([one_shot] * SUMS_A_GRAPH, replays=REPLAYS)
    except Exception as error:
        found["one_shot_problem"] = f"{type(error).__name__}: {error}"[:300]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="opt-13b")
    parser.add_argument("--tp", type=int, default=2)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--model", type=Path, help="its directory; written if it is not there")
    options = parser.parse_args()
    model = options.model or Path("/dev/shm") / options.shape
    if not model.exists():
        write_random_model(model, shape(options.shape), same_layers=True)
    config = EngineConfig(batching="continuous", max_tokens=256, share_prefixes=False, max_running=64)
    spec = EngineSpec(model=str(model), config=config)
    print(json.dumps(run_ranks(options.tp, profile, spec, options.rows, timeout_s=300, device="cuda"), indent=1))


if __name__ == "__main__":
    main()
