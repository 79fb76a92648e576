"""`raydsinfer generate`: rows in, rows out, and what is said on the way."""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from contextlib import ExitStack, closing, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from rich.console import Console

from raydsinfer.checkpoints.weights.describe import describe
from raydsinfer.checkpoints.weights.reader import TensorReader
from raydsinfer.cli.answering import answers
from raydsinfer.cli.board import Board
from raydsinfer.cli.cluster import cluster, this_node
from raydsinfer.cli.inputs import Input, open_input
from raydsinfer.cli.job import Job
from raydsinfer.cli.outputs import Sink, open_output
from raydsinfer.cli.progress import Display, Pace, open_display
from raydsinfer.cli.rejects import Rejects, open_rejects
from raydsinfer.cli.results import Tally, conformed, result_schema
from raydsinfer.cli.shape import GangShape
from raydsinfer.cli.summary import Summary
from raydsinfer.engines.base import EngineSpec
from raydsinfer.engines.choice import may_take_kernels
from raydsinfer.engines.families import check_stored_form
from raydsinfer.errors import ClusterCapacityError
from raydsinfer.groups.placement import capacity_error, gang_request, read_nodes, why_impossible
from raydsinfer.rows.answers import ATTEMPTS_COLUMN
from raydsinfer.runs.store import RunStore
from raydsinfer.scoring.kept_run import STORED_COLUMN

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
        keep = job.kept_columns(rows)
        schema = result_schema(rows.types, keep, job.generation)
        with (
            open_output(job.output, job.output_format, schema, overwrite=job.overwrite) as sink,
            open_rejects(job.rejects, rows, overwrite=job.overwrite) as rejects,
        ):
            run = _Run(job, rows, keep, schema, sink, rejects)
            if rows.num_rows:
                with open_display(console, rows.num_rows) as display:
                    run.all_rows(checkpoint, display)
    return run.summary()


def check_files(spec: EngineSpec, num_ranks: int) -> None:
    """Look whether a local model's weights are all there, before anything waits for a GPU.

    Raises:
        CheckpointError: The directory has no weights, or not all of them, or files that are not what they say, or
            weights that were cut for another number of ranks.
        UnsupportedError: DeepSpeed wrote the weights for its kernels, and the settings do without these.
    """
    directory = Path(spec.model).expanduser()
    if spec.config.engine != "echo" and directory.is_dir():
        description = describe(directory)
        check_stored_form(description, kernels=may_take_kernels(spec.config))
        if description.form == "deepspeed":  # gangs of any size cut it anew
            return
        with TensorReader(description, tp_size=num_ranks):
            pass  # opens nothing yet, but knows for whom the weights were cut


class _Run:
    """One execution: the clock, the tally, and the loop between Ray Data and the sink."""

    def __init__(
        self, job: Job, rows: Input, keep: list[str], schema: pa.Schema, sink: Sink, rejects: Rejects | None
    ) -> None:
        self._job, self._rows, self._keep, self._schema = job, rows, keep, schema
        self._sink, self._rejects = sink, rejects
        self._mixed = [name for name in keep if rows.types[name] is None]
        self._tally, self._num_restarts = Tally(), 0
        self._began_at = time.time()
        self._ready_at: float | None = None
        self._ended_at = self._began_at

    def summary(self) -> Summary:
        """What came of it."""
        job, ready_at = self._job, self._ready_at or self._ended_at
        return Summary(
            output=job.output,
            tally=self._tally,
            start_up_s=ready_at - self._began_at,
            generation_s=self._ended_at - ready_at,
            num_restarts=self._num_restarts,
            kept_in=job.kept.shown if job.kept is not None else "",
            rejects=job.rejects.path if job.rejects is not None else "",
        )

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
                refuse_impossible(job.shape)
            store = RunStore(job.kept.run_dir) if job.kept is not None else None
            board = stack.enter_context(Board(lambda at, line: self._told(at, line, display), this_node()))
            tables = answers(job, self._rows, self._keep, checkpoint, board.teller, store)
            for block in stack.enter_context(closing(tables)):
                self._take(block)
                if self._ready_at is None and self._tally.num_rows > self._tally.num_stored:
                    board.refresh()
                    self._ready_at = self._ready_at or self._ended_at
                elapsed_s = self._ended_at - (self._ready_at or self._ended_at)
                display.show(Pace(self._rows.num_rows, self._tally, elapsed_s, self._num_restarts))
            if store is not None:
                store.finish(num_rows=self._tally.num_rows, num_errors=self._tally.num_errors)

    def _take(self, block: pa.Table) -> None:
        table = conformed(block, self._schema, self._mixed)
        self._sink.write(table)
        if self._rejects is not None:
            errors, attempts = (block.column(name).to_pylist() for name in ("error", ATTEMPTS_COLUMN))
            self._rejects.add(self._tally.num_rows, errors, attempts)
        stored = block.column(STORED_COLUMN).to_pylist() if self._job.kept is not None else None
        self._tally.add(table, stored)
        self._ended_at = time.time()

    def _told(self, at: float, line: str, display: Display) -> None:
        if line.startswith("ready"):
            self._ready_at = self._ready_at or at
        elif line.startswith("restart "):
            self._num_restarts += 1
        display.note(line)


def refuse_impossible(shape: GangShape) -> None:
    """Fail at once where waiting is of no use: nobody adds nodes to a cluster that this command started.

    Raises:
        ClusterCapacityError: The machine has not enough for one gang.
    """
    request, nodes = gang_request("the gang", shape.scaling_config()), read_nodes()
    if why_impossible(request, nodes):
        error = capacity_error(request, nodes, 0.0)
        if shape.use_gpu:
            hint = "Use --address for a cluster with GPUs, or --num-cpu-ranks-per-worker-group to run on CPUs."
            error = ClusterCapacityError(**{**asdict(error), "hint": hint})
        raise error
