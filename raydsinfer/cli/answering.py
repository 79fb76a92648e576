"""The rows of an input through gangs, by Ray Data."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raydsinfer.cli.cluster import this_node
from raydsinfer.cli.inputs import Input
from raydsinfer.cli.job import Job
from raydsinfer.cli.records import SliceReader
from raydsinfer.runs.store import RunStore

if TYPE_CHECKING:
    from raydsinfer.checkpoint import DeepSpeedCheckpoint

_NUMBER_COLUMN = (
    "__raydsinfer_row_number__"  # beside the columns that are read, for rows that would be equal without it
)


def answers(
    job: Job,
    rows: Input,
    keep: list[str],
    checkpoint: DeepSpeedCheckpoint,
    on_progress: Any,
    store: RunStore | None,
) -> Generator[pa.Table, None, None]:
    """Result tables in the order of the input; Ray must be connected.

    Args:
        job: What to do.
        rows: The input.
        keep: Columns to keep.
        checkpoint: The model.
        on_progress: Gets lines of words from the gangs; goes to their processes.
        store: Where rows are kept; None: nowhere.
    """
    from raydsinfer.batch_predictor import BatchPredictor
    from raydsinfer.deepspeed_predictor import DeepSpeedPredictor

    predictor = BatchPredictor.from_checkpoint(
        checkpoint,
        DeepSpeedPredictor,
        scaling_config=job.shape.scaling_config(),
        gang_config=job.gang,
        recovery_config=job.recovery,
        prompt_column=job.columns.prompt,
        messages_column=job.columns.messages,
        generation_column=job.columns.generation,
        on_progress=on_progress,
    )
    each = job.kept is not None and job.kept.duplicates == "each"
    number_column = _NUMBER_COLUMN if each else ""
    answered = predictor.predict(
        dataset(rows, job.batch_size, _columns_to_read(job, rows, keep), number_column=number_column),
        keep_columns=keep,
        batch_size=job.batch_size,
        min_scoring_workers=job.shape.num_gangs,
        max_scoring_workers=job.shape.max_gangs,
        report_attempts=job.counts_attempts,
        num_rows=rows.num_rows,
        key_column=number_column or None,
        run_dir=store,
        **(job.kept.arguments() if job.kept is not None else {}),
        **job.generation_said,
    )
    yield from answered.iter_batches(batch_size=None, batch_format="pyarrow")


def _columns_to_read(job: Job, rows: Input, keep: list[str]) -> list[str]:
    wanted = {*keep, job.columns.prompt, job.columns.messages, job.columns.generation}
    return [name for name in rows.types if name in wanted]


def dataset(rows: Input, batch_size: int, columns: list[str], *, number_column: str = "") -> Any:
    """A lazy Ray data set of the input, in order, read in slices on this node.

    Args:
        rows: What to read.
        batch_size: Rows of a batch; a slice is a whole number of them.
        columns: What to read of each row.
        number_column: Column to make, of the rows' numbers; empty for none.
    """
    import ray
    import ray.data

    ray.data.DataContext.get_current().execution_options.preserve_order = True
    slices = [asdict(part) for part in rows.slices(batch_size)]
    read: Any = SliceReader(rows.format, columns, number_column).read
    # The sliver keeps the reading where local files are, and apart from the operator that follows:
    # merged with it, a task would take one slice for one row.
    return ray.data.from_items(slices, override_num_blocks=len(slices)).map_batches(
        read,
        batch_size=None,
        batch_format="pandas",
        num_cpus=0,
        concurrency=min(2, len(slices)),
        resources=this_node(),
    )
