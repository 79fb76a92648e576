"""What do Ray and Ray Data cost continuous batching? BatchPredictor against the bare engine, in one run.

    python -m tests.gpu.overhead_continuous --shape llama-8b --copies 5

Both ways answer the same rows in order of arrival: the `mixed` workload of `raydsinfer bench`, several times over,
prefixes not shared. Both engines start cold. A row counts as out when all rows before it are out too. Figures are new
tokens over seconds from the end of the first batch, or of a copy, to the end of the last row. Rows that are half done
where a window starts are so on both ways; but rows leave Ray Data batch by batch, which makes one window differ from
the next, the more the shorter it is. The bare engine runs in a plain process without Ray, gets all rows at once, and
neither tokenises nor detokenises.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raydsinfer.bench.random_model import write_random_model
from raydsinfer.bench.shapes import shape
from raydsinfer.bench.throughput.runners import STEPS_AT_ONCE, exactly
from raydsinfer.bench.workloads import BenchRequest, mixed
from raydsinfer.config import EngineConfig
from raydsinfer.engines.base import EngineSpec, GenerateRequest, RankContext
from tests.gpu.overhead import on_gpu
from tests.ranks import run_ranks


def bare(context: RankContext, spec: EngineSpec, work: Sequence[BenchRequest]) -> dict[str, Any]:
    """Without Ray: when each row was out, seconds."""
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine

    engine = DeepSpeedEngine(spec, context)
    report = engine.load()
    assert report.batching == "continuous", report.note
    new = [GenerateRequest(key=i, token_ids=r.prompt, generation=exactly(r.new_tokens)) for i, r in enumerate(work)]
    started, done_s = time.perf_counter(), [0.0] * len(work)
    num_left = len(work)
    while num_left:
        advance = engine.advance(new, num_steps=STEPS_AT_ONCE)
        new, now = [], time.perf_counter() - started
        for answer in advance.answers:
            assert len(answer.completions[0].token_ids) == work[answer.key].new_tokens
            done_s[answer.key], num_left = now, num_left - 1
    return {"out_s": in_order(done_s), "phases_s": report.phases_s, "statistics": engine.statistics()}


def in_order(done_s: Sequence[float]) -> list[float]:
    """When each row and all before it were done."""
    latest, out = 0.0, []
    for seconds in done_s:
        latest = max(latest, seconds)
        out.append(latest)
    return out


def through_ray_data(
    spec: EngineSpec,
    work: Sequence[BenchRequest],
    batch_size: int,
    *,
    tp: int = 1,
    gangs: int = 1,
    in_order: bool = True,
) -> dict[str, Any]:
    """Through BatchPredictor: when each row came out, seconds since the first batch of rows, and its new tokens."""
    import ray.data
    from ray.train import ScalingConfig

    from raydsinfer import BatchPredictor, DeepSpeedCheckpoint, DeepSpeedPredictor

    rows = [
        {
            "id": number,
            "prompt": " ".join(f"w{token}" for token in request.prompt),
            "generation": json.dumps({"max_new_tokens": request.new_tokens, "min_new_tokens": request.new_tokens}),
        }
        for number, request in enumerate(work)
    ]
    ray.data.DataContext.get_current().execution_options.preserve_order = in_order
    out = BatchPredictor.from_checkpoint(
        DeepSpeedCheckpoint.from_pretrained(spec.model, spec.config),
        DeepSpeedPredictor,
        scaling_config=ScalingConfig(num_workers=tp, use_gpu=on_gpu()),
        generation_column="generation",
    ).predict(
        ray.data.from_items(rows, override_num_blocks=-(-len(rows) // batch_size)),
        feature_columns=["prompt", "generation"],
        keep_columns=["id"],
        batch_size=batch_size,
        min_scoring_workers=gangs,
        max_scoring_workers=gangs,
    )
    out_s: list[float] = []
    ids: list[int] = []
    tokens: list[int] = []
    for batch in out.iter_batches(batch_size=batch_size, batch_format="numpy", prefetch_batches=0):
        assert not any(batch["error"]), batch["error"]
        ids += batch["id"].tolist()
        tokens += batch["num_output_tokens"].tolist()
        out_s += [time.perf_counter()] * len(batch["id"])
    assert (ids if in_order else sorted(ids)) == list(range(len(work)))
    assert tokens == [work[number].new_tokens for number in ids]
    return {"out_s": [seconds - out_s[0] for seconds in out_s], "tokens": tokens}


def window(
    bare_s: Sequence[float], ray_s: Sequence[float], work: Sequence[BenchRequest], start: int
) -> dict[str, float]:
    """New tokens per second of the rows from `start` on, while they came out, on both ways."""
    bare_rate, ray_rate = (rate(out_s, work, start) for out_s in (bare_s, ray_s))
    return {"bare": bare_rate, "ray": ray_rate, "ray_over_bare": ray_rate / bare_rate}


def rate(out_s: Sequence[float], work: Sequence[BenchRequest], start: int) -> float:
    """New tokens per second of the rows from `start` on, while they came out; no number if they all came at once."""
    return sum(request.new_tokens for request in work[start:]) / ((out_s[-1] - out_s[start - 1]) or math.nan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="opt-13b")
    parser.add_argument("--rows", type=int, default=512, help="of one copy")
    parser.add_argument("--copies", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--model", type=Path, help="its directory; written if it is not there")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = options.model or Path("/dev/shm") / options.shape
    if not model.exists():
        write_random_model(model, shape(options.shape), same_layers=True)
    config = EngineConfig(batching="continuous", max_tokens=1024, share_prefixes=False, longest_first=False)
    spec = EngineSpec(model=str(model), config=config)
    work = mixed(options.rows, vocab_size=shape(options.shape)["vocab_size"]).requests * options.copies
    device = "cuda" if on_gpu() else "cpu"
    alone = run_ranks(options.tp, bare, spec, work, timeout_s=600, device=device)
    import ray

    paths = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    ray.init(address="local", include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    streamed = through_ray_data(spec, work, options.batch_size, tp=options.tp)
    starts = [options.batch_size, *range(options.rows, len(work), options.rows)]
    summary = {
        "shape": options.shape,
        "rows": len(work),
        "from_row": {start: window(alone["out_s"], streamed["out_s"], work, start) for start in starts},
    }
    print(json.dumps(summary))
    if options.out:
        options.out.write_text(json.dumps({**summary, "bare_run": alone, "ray_run": streamed}))


if __name__ == "__main__":
    main()
