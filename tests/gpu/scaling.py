"""How much more do several gangs answer than one? New tokens per second of one job in the middle of its run.

    CUDA_VISIBLE_DEVICES=0 python -m tests.gpu.scaling --gangs 1
    python -m tests.gpu.scaling --gangs 2

Each gang has as many rows of the `mixed` workload in either run. What counts are the tokens that leave Ray Data
between a third and five sixths of the rows: by then all gangs are at work, and none is done.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from raydsinfer.bench.random_model import write_random_model
from raydsinfer.bench.shapes import shape
from raydsinfer.bench.workloads import mixed
from raydsinfer.config import EngineConfig
from raydsinfer.engines.base import EngineSpec
from tests.gpu.overhead_continuous import through_ray_data


def middle_rate(out_s: Sequence[float], tokens: Sequence[int], batch_size: int) -> float:
    """New tokens per second from the end of one batch, a third in, to the end of another, five sixths in."""
    start, end = (-(-len(out_s) * sixths // 6 // batch_size) * batch_size for sixths in (2, 5))
    return sum(tokens[start:end]) / (out_s[end - 1] - out_s[start - 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="llama-8b")
    parser.add_argument("--gangs", type=int, default=1)
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--rows", type=int, default=3072, help="of each gang")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--model", type=Path, help="its directory; written if it is not there")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = options.model or Path("/dev/shm") / options.shape
    if not model.exists():
        write_random_model(model, shape(options.shape), same_layers=True)
    config = EngineConfig(
        batching="continuous", max_tokens=1024, share_prefixes=False, longest_first=False, verify="off"
    )
    spec = EngineSpec(model=str(model), config=config)
    work = mixed(options.rows * options.gangs, vocab_size=shape(options.shape)["vocab_size"]).requests
    import ray

    paths = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    ray.init(address="local", include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    run = through_ray_data(spec, work, options.batch_size, tp=options.tp, gangs=options.gangs, in_order=False)
    summary = {
        "shape": options.shape,
        "gangs": options.gangs,
        "rows": len(work),
        "seconds": run["out_s"][-1],
        "middle_tokens_per_s": middle_rate(run["out_s"], run["tokens"], options.batch_size),
    }
    print(json.dumps(summary))
    if options.out:
        options.out.write_text(json.dumps({**summary, **run}))


if __name__ == "__main__":
    main()
