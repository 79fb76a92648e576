"""How long a run directory takes: `python -m tests.measure_runs DIRECTORY --rows 1000000`. Not a test."""

from __future__ import annotations

import argparse
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from raydsinfer.rows.keys import KEY_BYTES
from raydsinfer.runs.store import RunStore
from tests.runs import answers_to, begun

T = TypeVar("T")


def timed(what: str, action: Callable[[], T], num: int = 1, unit: str = "") -> T:
    began, worked = time.perf_counter(), time.process_time()
    result = action()
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - worked
    each = f", {seconds / num * 1e6:.1f} us a {unit}" if unit else ""
    print(f"{what}: {seconds:.3f} s ({cpu_s:.3f} s of one core{each})")
    return result


def keys_of(start: int, stop: int) -> list[bytes]:
    """Random keys, the same for the same rows, so that none has to be kept."""
    data = np.random.default_rng(start).bytes(KEY_BYTES * (stop - start))
    return [data[i : i + KEY_BYTES] for i in range(0, len(data), KEY_BYTES)]


def batches(num_rows: int, size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(num_rows, start + size)) for start in range(0, num_rows, size))


def fill(store: RunStore, num_rows: int, size: int) -> None:
    rng = np.random.default_rng(0)
    words = np.array(["lorem", "ipsum", "dolor", "sit", "amet", "consectetur", "adipiscing", "elit"])
    for start, stop in batches(num_rows, size):
        table = answers_to(range(start, stop))
        texts = pa.array([" ".join(words[rng.integers(0, len(words), 100)]) for _ in range(stop - start)])
        store.commit(keys_of(start, stop), table.set_column(0, "output", texts), seconds=1.0, num_restarts=0)


def measure(directory: Path, num_rows: int, size: int) -> None:
    store = begun(directory)
    timed(
        "commit (texts are made in this time, too)", lambda: fill(store, num_rows, size), -(-num_rows // size), "part"
    )
    for folder in ("parts", "keys", "manifests"):
        print(f"{folder}: {sum(path.stat().st_size for path in (directory / folder).iterdir()) / 1e6:.1f} MB")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    index = timed("index of all rows", store.build_index)
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    print(f"rows in it: {len(index)}; peak memory grew by {more / 1024:.0f} MiB")
    timed("index, nothing new", store.build_index)
    timed("status", store.status)
    every = list(batches(num_rows, size))
    timed("find every key", lambda: [index.find(keys_of(*batch)) for batch in every], num_rows, "key")
    absent = [(num_rows + 1, num_rows + 1001)] * 100
    timed("find absent keys", lambda: [index.find(keys_of(*batch)) for batch in absent], 100_000, "key")
    some = every[: max(1, 50_000 // size)]
    read = lambda keys: index.read([place for place in index.find(keys) if place], ["output"])  # noqa: E731
    num_read = sum(stop - start for start, stop in some)
    timed("find and read batches as committed", lambda: [read(keys_of(*batch)) for batch in some], num_read, "row")
    mixed = [keys_of(*batch)[0] for batch in every[:1000]]
    timed("find and read rows of as many parts", lambda: read(mixed), len(mixed), "row")
    fill(store, size, size)
    timed("index with one part more", store.build_index)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rows-a-commit", type=int, default=256)
    said = parser.parse_args()
    place = said.directory / "run"
    try:
        measure(place, said.rows, said.rows_a_commit)
    finally:
        shutil.rmtree(place, ignore_errors=True)
