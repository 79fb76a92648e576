"""Single questions, asked of a real cluster: ``python -m tests.faults.experiments``, part of ``make faults``.

The driver killed at ten random moments of one job; a row that kills its gang among 10,000; a tiny real model under
fire.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from raydsinfer.runs.store import RunStore
from tests.faults.injectors import Scene, kill_driver, kill_predictor, kill_rank, strike_patiently
from tests.faults.job import Job
from tests.faults.machine import Machine, end_in_order, wait_for
from tests.faults.verdict import Leftovers, echoed, judge

TIMEOUT_S = 600.0


def driver_killed_ten_times(machine: Machine, scratch: Path, seed: int) -> bool:
    """The union of the runs is an unbroken run; only rows in flight are computed again."""
    generator, began = random.Random(f"ten/{seed}"), time.monotonic()  # noqa: S311
    job = Job(
        path=str(scratch / "ten.json"),
        address=machine.address,
        num_rows=4000,
        run_dir=str(scratch / "ten"),
        engine={"engine": "echo", "max_tokens": 128, "max_batch_size": 10, "echo_delay_s": 0.1},
    )
    leftovers, driver = Leftovers(), machine.start(job)
    moments = sorted(generator.randrange(job.num_rows * 9 // 10) for _ in range(10))
    for moment in moments:
        wait_for(lambda moment=moment, driver=driver: stored_rows(job) >= moment or not driver.running, TIMEOUT_S)
        driver.kill()
        print(f"  killed when {stored_rows(job)} rows were stored", flush=True)
        driver = machine.start(job)
    code = driver.wait(TIMEOUT_S)
    verdict = judge(job, job.written(), echoed(job), leftovers.after())
    parts = [pq.read_table(path).select(["id", "error"]).to_pylist() for path in Path(job.run_dir, "parts").iterdir()]
    ids = [row["id"] for part in parts for row in part if not row["error"]]
    again = len(ids) - len(set(ids))
    print(
        f"driver killed at {len(moments)} moments of one job of {job.num_rows} rows, seed {seed}: {verdict}, exit code"
        f" {code}, {again} rows stored twice, {time.monotonic() - began:.0f} s",
        flush=True,
    )
    return verdict.good and code == 0


def stored_rows(job: Job) -> int:
    """Rows in all parts of a run, however often each."""
    has_begun = any(Path(job.run_dir, "starts").glob("*.json"))
    status = RunStore(job.run_dir).status() if has_begun else None
    return status.num_done + status.num_failed if status else 0


def killer_among_many(machine: Machine, scratch: Path, seed: int) -> bool:
    """One row in 10,000 takes its gang down each time: it is named, and the others are answered."""
    generator, began = random.Random(f"killer/{seed}"), time.monotonic()  # noqa: S311
    killer = generator.randrange(10_000)
    job = Job(
        path=str(scratch / "killer.json"),
        address=machine.address,
        num_rows=10_000,
        run_dir=str(scratch / "killer"),
        batch_size=256,
        engine={
            "engine": "echo",
            "max_tokens": 128,
            "max_batch_size": 64,
            "echo_fault": {"action": "kill", "rank": 1, "prompt_contains": "KILLER"},
        },
        recovery={"restart_backoff_s": 0.1},
        prompts={str(killer): "KILLER"},
    )
    leftovers, driver = Leftovers(), machine.start(job)
    code = driver.wait(TIMEOUT_S)
    rows = list(job.written())
    verdict = judge(job, rows, echoed(job, {killer: "gang"}), leftovers.after())
    restarts = RunStore(job.run_dir).status().num_restarts
    said = next((row["error"] for row in rows if row["id"] == killer), "")
    print(
        f"row {killer} of 10,000 kills its gang (batches of 256, calls of 64), seed {seed}: {verdict}, exit code"
        f" {code}, {restarts} deaths, {time.monotonic() - began:.0f} s; it says {said!r}",
        flush=True,
    )
    return verdict.good and code == 0


def real_model_under_fire(machine: Machine, scratch: Path, seed: int) -> bool:
    """A tiny Llama on DeepSpeed: ranks, predictors and the driver die, and every text is plain transformers'."""
    from raydsinfer.engines.tokenizer import HuggingFaceTokenizer
    from tests.models import plain_greedy, write_tiny_model

    generator, began = random.Random(f"real/{seed}"), time.monotonic()  # noqa: S311
    model = write_tiny_model("llama", scratch / "model")
    job = Job(
        path=str(scratch / "real.json"),
        address=machine.address,
        num_rows=200,
        run_dir=str(scratch / "real"),
        model=str(model),
        use_gpu=False,
        engine={"dtype": "float32", "max_tokens": 128, "max_batch_size": 4, "batching": "static"},
        generation={"max_new_tokens": 16},
        recovery={"restart_backoff_s": 0.1},
        deadlines={"start_timeout_s": 240.0},
    )
    tokenizer = HuggingFaceTokenizer(str(model))
    ids = [tokenizer.encode(job.prompt(number)) for number in range(job.num_rows) if job.prompt(number)]
    texts = iter([tokenizer.decode(answer) for answer in plain_greedy(model, ids, 16)])
    expected = [(next(texts), "") if job.prompt(number) else ("", "prompt") for number in range(job.num_rows)]
    scene = Scene(machine, machine.start(job), scratch / "trap", scratch, generator)
    leftovers, struck = Leftovers(), []
    for strike in (kill_rank, kill_predictor, kill_driver, kill_rank):
        due = generator.uniform(0.1, 0.8) * job.num_rows
        wait_for(lambda due=due: scene.driver.num_done() >= due or not scene.driver.running, TIMEOUT_S)
        struck += [strike.__name__] * strike_patiently(strike, scene)
    code = scene.driver.wait(TIMEOUT_S)
    verdict = judge(job, job.written(), lambda number: expected[number], leftovers.after())
    print(
        f"tiny Llama on 2 x 2 ranks, seed {seed}: {verdict}, exit code {code}, struck {', '.join(struck)},"
        f" {time.monotonic() - began:.0f} s",
        flush=True,
    )
    if job.error_path.exists():
        print(job.error_path.read_text()[:3000], flush=True)
    return verdict.good and code == 0


EXPERIMENTS: dict[str, Callable[[Machine, Path, int], bool]] = {
    "ten": driver_killed_ten_times,
    "killer": killer_among_many,
    "real": real_model_under_fire,
}


def main() -> int:
    """Entry point; 0 if all is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*EXPERIMENTS, []], help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    end_in_order()
    good = []
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch, Machine() as machine:
        for name in given.names or EXPERIMENTS:
            good.append(EXPERIMENTS[name](machine, Path(scratch), given.seed))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
