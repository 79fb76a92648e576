"""`raydsinfer generate --dry-run`: the plan, printed."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.cli.cluster import cluster
from raydsinfer.cli.generate import check_files
from raydsinfer.cli.inputs import open_input
from raydsinfer.cli.job import Job
from raydsinfer.cli.outputs import check_free
from raydsinfer.cli.plan import ModelSize, Placed, model_size, place_gangs
from raydsinfer.cli.rejects import check_rejects_free
from raydsinfer.groups.placement import gang_request, read_nodes


def dry_run(job: Job, console: Console) -> bool:
    """Print what a job would do; nothing is loaded, reserved or written.

    Args:
        job: What would be done.
        console: Where to print.

    Returns:
        Whether every gang has a place now.

    Raises:
        RaydsinferError: The job cannot be done at all.
    """
    checkpoint = job.checkpoint()
    spec, shape = checkpoint.spec, job.shape
    check_files(spec, shape.num_ranks)
    check_free(job.output, job.output_format, overwrite=job.overwrite)
    check_rejects_free(job.rejects, overwrite=job.overwrite)
    with tempfile.TemporaryDirectory(prefix="raydsinfer-") as scratch:
        rows = open_input(job.input, job.input_format, Path(scratch))
        keep = job.kept_columns(rows)
    size = (
        None
        if spec.config.engine == "echo"
        else model_size(spec.model, spec.config, shape.num_ranks, use_gpu=shape.use_gpu)
    )
    with cluster(job.address, num_cpus=shape.num_cpus, debug=job.debug):
        nodes = read_nodes()
        placed = place_gangs(gang_request("gang", shape.scaling_config()), shape.num_gangs, nodes)
    table = _grid()
    table.add_row("model", without_secrets(spec.model))
    files = f"{len(rows.files)} {rows.format} file{'s' if len(rows.files) > 1 else ''}"
    table.add_row("input", f"{job.input}: {rows.num_rows:,} rows in {files}")
    table.add_row("output", f"{job.output} ({job.output_format}), keeping {', '.join(keep) or 'no columns'}")
    if job.kept is not None:
        table.add_row("kept in", job.kept.shown)
    if job.rejects is not None:
        table.add_row("rejects", f"{job.rejects.path} ({job.rejects.format})")
    table.add_row("gangs", f"{shape}, {job.batch_size} rows a batch")
    for name, value in model_lines(size):
        table.add_row(name, value)
    for name, value in placement_lines(placed):
        table.add_row(name, value)
    table.add_row("nodes", "\n".join(map(str, nodes)))
    console.print(table)
    return all(not gang.problem for gang in placed)


def _grid() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table


def model_lines(size: ModelSize | None) -> list[tuple[str, str]]:
    """What is said of the model: None for an engine without one."""
    if size is None:
        return [("engine", "echo, which has no model")]
    total, each = size.num_parameters, size.num_per_rank
    return [
        ("engine", f"DeepSpeed, {size.mode}, {size.dtype}"),
        ("parameters", f"{total:,} in all, about {each:,} on the fullest rank"),
        ("weights", f"{_bytes(total * size.bytes_per_parameter)} in all, about "
         f"{_bytes(each * size.bytes_per_parameter)} a rank (without KV cache and activations)"),
    ]  # fmt: skip


def placement_lines(placed: Sequence[Placed]) -> list[tuple[str, str]]:
    """Where the gangs would go; equal ones on one line."""
    said = Counter(
        gang.problem
        or ", ".join(f"{num} rank{'s' if num > 1 else ''} on {address}" for address, num in gang.ranks_by_node.items())
        for gang in placed
    )
    lines = [(f"{count} gang{'s' if count > 1 else ''}", text) for text, count in said.items()]
    problem = next((gang.problem for gang in placed if gang.problem), "")
    return [*lines, *([("problem", "not every gang has a place")] if problem else [])]


def _bytes(number: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number} bytes"
