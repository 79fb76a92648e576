"""`raydsinfer generate`: rows in, rows out, and what is said on the way."""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, closing, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from rich.console import Console

from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.checkpoints.weights.reader import TensorReader
from raydsinfer.cli.board import Board
from raydsinfer.cli.cluster import cluster, this_node
from raydsinfer.cli.inputs import Input, open_input
from raydsinfer.cli.job import Job
from raydsinfer.cli.outputs import Sink, open_output
from raydsinfer.cli.progress import Display, Pace, open_display
from raydsinfer.cli.records import SliceReader
from raydsinfer.cli.results import Tally, conformed, result_schema
from raydsinfer.cli.summary import Summary
from raydsinfer.engines.base import EngineSpec
from raydsinfer.errors import ClusterCapacityError
from raydsinfer.groups.placement import capacity_error, gang_request, read_nodes, why_impossible

if TYPE_CHECKING:
    from raydsinfer.checkpoint import DeepSpeedCheckpoint


def generate(job: Job, console: Console) -> Summary:
    """Do a job.

    Args:
        job: What to do.
        console: For messages; results never go there.

    Raises:
        RaydsinferError: It cannot be done; nothing is left behind.
    """
    checkpoint = job.checkpoint()
    check_files(checkpoint.spec, job.shape.num_ranks)
    with tempfile.TemporaryDirectory(prefix="raydsinfer-") as scratch:
        rows = open_input(job.input, job.input_format, Path(scratch))
        keep = job.kept(rows)
        schema = result_schema(rows.types, keep, job.generation)
        with open_output(job.output, job.output_format, schema, overwrite=job.overwrite) as sink:
            run = _Run(job, rows, keep, schema, sink)
            if rows.num_rows:
                with open_display(console, rows.num_rows) as display:
                    run.all_rows(checkpoint, display)
    return Summary(output=job.output, tally=run.tally, start_up_s=run.start_up_s, generation_s=run.generation_s)


def check_files(spec: EngineSpec, num_ranks: int) -> None:
    """Look whether a local model's weights are all there, before anything waits for a GPU.

    Raises:
        CheckpointError: The directory has no weights, or not all of them, or files that are not what they say, or
            weights that were cut for another number of ranks.
    """
    directory = Path(spec.model).expanduser()
    if spec.config.engine != "echo" and directory.is_dir():
        with TensorReader(describe(directory), tp_size=num_ranks):
            pass  # opens nothing yet, but knows for whom the weights were cut


class _Run:
    """One execution: the clock, the tally, and the loop between Ray Data and the sink."""

    def __init__(self, job: Job, rows: Input, keep: list[str], schema: pa.Schema, sink: Sink) -> None:
        self._job, self._rows, self._keep, self._schema, self._sink = job, rows, keep, schema, sink
        self._mixed = [name for name in keep if rows.types[name] is None]
        self.tally = Tally()
        self._began_at = time.time()
        self._ready_at: float | None = None
        self._ended_at = self._began_at

    @property
    def start_up_s(self) -> float:
        """Seconds until the first gang was ready."""
        return (self._ready_at or self._ended_at) - self._began_at

    @property
    def generation_s(self) -> float:
        """Seconds since the first gang was ready."""
        return self._ended_at - (self._ready_at or self._ended_at)

    def all_rows(self, checkpoint: DeepSpeedCheckpoint, display: Display) -> None:
        """Answer every row, in the order of the input."""
        job = self._job
        display.note(f"{self._rows.num_rows:,} rows, {job.shape}")
        with ExitStack() as stack:
            stack.enter_context(redirect_stdout(sys.stderr))  # Ray prints what its nodes warn of
            started_here = stack.enter_context(cluster(job.address, num_cpus=job.shape.num_cpus, debug=job.debug))
            # A failed job's idle actors stay, with their GPUs, in a reference cycle until it is collected.
            stack.callback(gc.collect)
            if started_here:
                refuse_impossible(job)
            board = stack.enter_context(Board(lambda at, line: self._told(at, line, display), this_node()))
            tables = stack.enter_context(closing(_answers(job, self._rows, self._keep, checkpoint, board.teller)))
            for block in tables:
                table = conformed(block, self._schema, self._mixed)
                self._sink.write(table)
                self.tally.add(table)
                self._ended_at = time.time()
                if self._ready_at is None:
                    board.refresh()
                    self._ready_at = self._ready_at or self._ended_at
                display.show(Pace(self._rows.num_rows, self.tally, self.generation_s))

    def _told(self, at: float, line: str, display: Display) -> None:
        if line.startswith("ready"):
            self._ready_at = self._ready_at or at
        display.note(line)


def refuse_impossible(job: Job) -> None:
    """Fail at once where waiting is of no use: nobody adds nodes to a cluster that this command started.

    Raises:
        ClusterCapacityError: The machine has not enough for one gang.
    """
    request, nodes = gang_request("the gang", job.shape.scaling_config()), read_nodes()
    if why_impossible(request, nodes):
        error = capacity_error(request, nodes, 0.0)
        if job.shape.use_gpu:
            hint = "Use --address for a cluster with GPUs, or --num-cpu-ranks-per-worker-group to run on CPUs."
            error = ClusterCapacityError(**{**asdict(error), "hint": hint})
        raise error


def _answers(
    job: Job, rows: Input, keep: list[str], checkpoint: DeepSpeedCheckpoint, on_progress: Any
) -> Generator[pa.Table, None, None]:
    from raydsinfer.batch_predictor import BatchPredictor
    from raydsinfer.deepspeed_predictor import DeepSpeedPredictor

    predictor = BatchPredictor.from_checkpoint(
        checkpoint,
        DeepSpeedPredictor,
        scaling_config=job.shape.scaling_config(),
        gang_config=job.gang,
        prompt_column=job.columns.prompt,
        messages_column=job.columns.messages,
        generation_column=job.columns.generation,
        on_progress=on_progress,
    )
    answered = predictor.predict(
        dataset(rows, job.batch_size, _columns_to_read(job, rows, keep)),
        keep_columns=keep,
        batch_size=job.batch_size,
        min_scoring_workers=job.shape.num_gangs,
        max_scoring_workers=job.shape.max_gangs,
        **job.generation_said,
    )
    yield from answered.iter_batches(batch_size=None, batch_format="pyarrow")


def _columns_to_read(job: Job, rows: Input, keep: list[str]) -> list[str]:
    wanted = {*keep, job.columns.prompt, job.columns.messages, job.columns.generation}
    return [name for name in rows.types if name in wanted]


def dataset(rows: Input, batch_size: int, columns: list[str]) -> Any:
    """A lazy Ray data set of the input, in order, read in slices on this node.

    Args:
        rows: What to read.
        batch_size: Rows of a batch; a slice is a whole number of them.
        columns: What to read of each row.
    """
    import ray
    import ray.data

    ray.data.DataContext.get_current().execution_options.preserve_order = True
    slices = [asdict(part) for part in rows.slices(batch_size)]
    read: Any = SliceReader(rows.format, columns).read
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
