"""What do Ray and Ray Data cost? OPT-13b (random weights): BatchPredictor against the bare engine, in one run.

    python -m tests.gpu.overhead --out overhead.json            # one gang of 2 GPUs, AutoTP
    python -m tests.gpu.overhead --kernel-inject --tp 1 --gangs 2

Both ways generate the same batches (prompts of 128 tokens, 64 new tokens each, greedy). The bare
engine runs in plain processes without Ray; BatchPredictor's time runs from the first batch that
comes out to the last, so that start-up is apart.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from raydsinfer.bench.random_model import write_random_model
from raydsinfer.bench.shapes import shape
from raydsinfer.config import EngineConfig, GenerationConfig
from raydsinfer.engines.base import EngineSpec, GenerateBatch, RankContext
from raydsinfer.engines.tokenizer import load_tokenizer
from tests.ranks import run_ranks

PROMPT_TOKENS, NEW_TOKENS = 128, 64


def batches(count: int, batch_size: int) -> list[list[list[int]]]:
    rng = np.random.default_rng(0)
    return [rng.integers(5, 50_000, (batch_size, PROMPT_TOKENS)).tolist() for _ in range(count)]


def bare(context: RankContext, spec: EngineSpec, work: list[list[list[int]]]) -> dict[str, Any]:
    """On each rank, without Ray: seconds of each batch."""
    from raydsinfer.engines.deepspeed_engine import DeepSpeedEngine

    engine = DeepSpeedEngine(spec, context)
    started = time.perf_counter()
    report = engine.load()
    load_s, seconds = time.perf_counter() - started, []
    generation = GenerationConfig(max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
    tokenizer = load_tokenizer(spec)
    first = None
    for prompts in work:
        begun = time.perf_counter()
        answers = engine.generate(GenerateBatch(prompts=prompts, generation=generation))
        seconds.append(time.perf_counter() - begun)
        first = first or [tokenizer.decode(row[0].token_ids) for row in answers]
    return {"load_s": load_s, "phases_s": report.phases_s, "batch_s": seconds, "first": first}


def through_ray_data(spec: EngineSpec, work: list[list[list[int]]], tp: int, gangs: int) -> dict[str, Any]:
    """Through BatchPredictor: when each batch came out."""
    import ray
    from ray.train import ScalingConfig

    from raydsinfer import BatchPredictor, DeepSpeedCheckpoint, DeepSpeedPredictor

    rows = [{"id": i, "prompt": " ".join(f"w{t}" for t in p)} for i, p in enumerate(p for b in work for p in b)]
    size = len(work[0])
    data = ray.data.from_items(rows, override_num_blocks=len(work))
    predictor = BatchPredictor.from_checkpoint(
        DeepSpeedCheckpoint.from_pretrained(spec.model, spec.config),
        DeepSpeedPredictor,
        scaling_config=ScalingConfig(num_workers=tp, use_gpu=on_gpu()),
    )
    out = predictor.predict(
        data,
        feature_columns=["prompt"],
        keep_columns=["id"],
        batch_size=size,
        min_scoring_workers=gangs,
        max_scoring_workers=gangs,
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
    )
    started, times, answers, errors = time.perf_counter(), [], {}, 0
    for batch in out.iter_batches(batch_size=size, batch_format="numpy", prefetch_batches=0):
        times.append(time.perf_counter() - started)
        errors += sum(bool(e) for e in batch["error"])
        answers.update(zip(batch["id"].tolist(), batch["output"].tolist(), strict=True))
    first = [answers[i] for i in range(size)]
    return {"out_s": times, "rows": len(answers), "errors": errors, "first": first}


def on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tp", type=int, default=2)
    parser.add_argument("--gangs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--batches", type=int, default=8, help="for each gang")
    parser.add_argument("--rounds", type=int, default=1, help="each way this often, in turns")
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--kernel-inject", action="store_true")
    parser.add_argument("--model", type=Path, default=Path("/dev/shm/opt-13b"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not options.model.exists():
        write_random_model(options.model, shape("opt-13b", options.layers))
    config = EngineConfig(
        max_tokens=PROMPT_TOKENS + NEW_TOKENS, max_batch_size=options.batch_size, kernel_inject=options.kernel_inject
    )
    spec = EngineSpec(model=str(options.model), config=config)
    work = batches(options.batches * options.gangs, options.batch_size)
    import ray

    paths = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    ray.init(address="local", include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    rounds = []
    for _ in range(options.rounds):
        mine, device = work[: options.batches], "cuda" if on_gpu() else "cpu"
        alone = run_ranks(options.tp, bare, spec, mine, timeout_s=500, device=device)
        rounds.append((alone, through_ray_data(spec, work, options.tp, options.gangs)))
    summary = summarise(options, rounds)
    print(json.dumps(summary))
    if options.out:
        options.out.write_text(
            json.dumps(
                {**summary, "batch_s": [a["batch_s"] for a, _ in rounds], "out_s": [r["out_s"] for _, r in rounds]},
                indent=1,
            )
        )


def summarise(options: argparse.Namespace, rounds: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Tokens per second of both ways, over all rounds; each gang's first batch is its warm-up."""
    tokens, skip = options.batch_size * NEW_TOKENS, options.gangs
    bare_s = [s for alone, _ in rounds for s in alone["batch_s"][1:]]
    bare_rate = tokens * len(bare_s) / sum(bare_s)
    times = [streamed["out_s"] for _, streamed in rounds]
    ray_rate = tokens * sum(len(t) - skip for t in times) / sum(t[-1] - t[skip - 1] for t in times)
    firsts = [result["first"] for pair in rounds for result in pair]
    same = [sum(a == b for a, b in zip(firsts[0], other, strict=True)) / len(firsts[0]) for other in firsts[1:]]
    return {
        **{name: getattr(options, name) for name in ("tp", "gangs", "kernel_inject", "batch_size", "rounds")},
        "bare_load_s": [alone["load_s"] for alone, _ in rounds],
        "bare_phases_s": rounds[0][0]["phases_s"],
        "ray_first_batch_s": [t[0] for t in times],
        "bare_tokens_per_s": bare_rate,
        "ray_tokens_per_s": ray_rate,
        "ray_over_bare_per_gang": ray_rate / options.gangs / bare_rate,
        "rows": [streamed["rows"] for _, streamed in rounds],
        "errors": [streamed["errors"] for _, streamed in rounds],
        "first_batch_rows_equal_to_first_bare": same,
    }


if __name__ == "__main__":
    main()
