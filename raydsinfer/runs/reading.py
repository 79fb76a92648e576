"""The rows of a run as a Ray data set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raydsinfer.runs.index import RunIndex
from raydsinfer.runs.store import RunStore

if TYPE_CHECKING:
    import ray.data

_PARTS_OF_A_TASK = 16


def read_run(run_dir: str | os.PathLike[str], *, all_settings: bool = False) -> ray.data.Dataset:
    """The rows that a run has committed, each key once, in no promised order.

    Args:
        run_dir: The run directory.
        all_settings: Also rows that were answered under other settings than those of the job that started last.

    Returns:
        A lazy data set of the output columns and those that were kept.

    Raises:
        RunDirectoryError: It is no run directory, or not as it was written.
    """
    import ray.data

    store = RunStore(run_dir)
    store.status()  # refuses what is no run
    index = store.build_index()
    wanted = set(index.parts) if all_settings else store.parts_of_last_settings()
    numbers = [{"number": number} for number, part in enumerate(index.parts) if part in wanted]
    tasks = max(1, -(-len(numbers) // _PARTS_OF_A_TASK))
    parts = ray.data.from_items(numbers, override_num_blocks=tasks)
    return parts.map_batches(_Reader(index).read, batch_size=None, batch_format="numpy")


class _Reader:
    def __init__(self, index: RunIndex) -> None:
        self._index = index

    def read(self, batch: Any) -> Iterator[pa.Table]:
        # Each part for itself: kept columns of one name may be of other types in another.
        for number in batch.get("number", ()):
            yield self._index.read_part(int(number))
