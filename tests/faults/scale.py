"""Scale without the machines: many fake nodes, very many rows, one driver. ``python -m tests.faults.scale``.

Prints rows per second and gang, the driver's memory as the rows pass, and what a second start of the finished run
costs. Nothing here is a test: a run takes minutes and most of a machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from tests.clusters import left_of_gangs
from tests.faults.job import Job
from tests.faults.machine import PREDICTOR, RANK, Driver, Machine, end_in_order

_ROWS_PER_FILE = 50_000
_MIB = 2**20


def write_rows(directory: Path, num_rows: int) -> int:
    """Write the input, some files of it; the sum of its ids."""
    directory.mkdir()
    for first in range(0, num_rows, _ROWS_PER_FILE):
        ids = range(first, min(num_rows, first + _ROWS_PER_FILE))
        table = pa.table({"id": list(ids), "prompt": [f"row {number} of a long night" for number in ids]})
        pq.write_table(table, directory / f"{first:09d}.parquet")
    return num_rows * (num_rows - 1) // 2


def watch(machine: Machine, driver: Driver, timeout_s: float, kill_at: int = 0) -> dict[str, float]:
    """Wait for a driver's end; the most memory of each kind of process on the way, in MiB.

    Args:
        machine: The cluster.
        driver: What to wait for.
        timeout_s: How long.
        kill_at: SIGKILL it once so many batches have come out; 0: never.
    """
    most = {"driver": 0.0, "predictor": 0.0, "rank": 0.0, "all": 0.0}
    deadline = time.monotonic() + timeout_s
    while driver.running and time.monotonic() < deadline:
        kinds = {"driver": [driver.pid], "predictor": machine.pids(PREDICTOR), "rank": machine.pids(RANK)}
        for kind, pids in kinds.items():
            most[kind] = max([most[kind], *map(_mib, pids)])
        most["all"] = max(most["all"], sum(_mib(child.pid) for child in psutil.Process().children(recursive=True)))
        if kill_at and driver.num_done() >= kill_at:
            driver.kill()
        time.sleep(2)
    return most


def _mib(pid: int) -> float:
    try:
        return float(psutil.Process(pid).memory_info().rss / _MIB)
    except psutil.Error:
        return 0.0


def report(title: str, driver: Driver, began: float, most: dict[str, float], num_gangs: int) -> None:
    """Print what a driver did."""
    lines = list(driver.job.written())
    last = lines[-1] if lines else {"at": time.time(), "rows": 0, "different": 0, "ids": 0}
    first_s, total_s = (lines[0]["at"] if lines else time.time()) - began, last["at"] - began
    rate = last["rows"] / max(1e-9, total_s - first_s)
    print(f"\n{title}: {last['rows']:,} rows, {last['different']} wrong, ids add up to {last['ids']:,}")
    print(f"  first rows after {first_s:.1f} s, last after {total_s:.1f} s, from first to last {rate:,.0f} rows/s")
    print(f"  {rate / num_gangs:,.0f} rows/s a gang; exit code {driver.wait(0)}")
    if lines:
        places = [lines[len(lines) * tenth // 10] for tenth in range(10)] + [last]
        print("  driver MiB by rows: " + ", ".join(f"{p['rows']:,}: {p['rss'] / _MIB:.0f}" for p in places))
    print("  most MiB of a process: " + ", ".join(f"{kind} {mib:,.0f}" for kind, mib in most.items()), flush=True)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument("--gangs", type=int, default=2)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batch-size", type=int, default=1000)
    parser.add_argument("--kill-at", type=float, default=0.5, help="share of the rows after which to SIGKILL; 0: never")
    given = parser.parse_args()
    end_in_order()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="scale-") as root, Machine(given.nodes, given.gpus_per_node) as machine:
        print(
            f"{given.nodes} nodes x {given.gpus_per_node} fake GPUs after {time.monotonic() - began:.0f} s", flush=True
        )
        wanted = write_rows(Path(root) / "rows", given.rows)
        print(f"{given.rows:,} rows written, their ids add up to {wanted:,}", flush=True)
        job = Job(
            path=f"{root}/job.json",
            address=machine.address,
            num_rows=given.rows,
            run_dir=f"{root}/run",
            input_path=f"{root}/rows",
            num_gangs=given.gangs,
            num_ranks=given.ranks,
            batch_size=given.batch_size,
            only_counts=True,
            engine={"engine": "echo", "max_tokens": 256, "max_batch_size": given.batch_size},
            deadlines={"lease_ttl_s": 30.0, "placement_timeout_s": 300.0, "start_timeout_s": 300.0},
        )
        if given.kill_at:
            run("first start, killed on the way", machine, job, int(given.kill_at * given.rows / given.batch_size))
            run("second start, goes on", machine, job)
        else:
            run("one start", machine, job)
        run("a start of the finished run", machine, job)
        sizes = [path.stat().st_size for path in Path(job.run_dir).rglob("*") if path.is_file()]
        print(f"\nrun directory: {len(sizes)} files, {sum(sizes) / _MIB:.0f} MiB; left: {json.dumps(left_of_gangs())}")
    return 0


def run(title: str, machine: Machine, job: Job, kill_at: int = 0) -> None:
    """A start of the job, and what is to be said of it."""
    began, driver = time.time(), machine.start(replace(job))
    most = watch(machine, driver, 3600, kill_at)
    report(title, driver, began, most, job.num_gangs)


if __name__ == "__main__":
    sys.exit(main())
