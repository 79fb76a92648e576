"""`raydsinfer generate --dry-run`: the plan of a job, printed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.cli.cluster import cluster
from raydsinfer.cli.generate import check_files
from raydsinfer.cli.inputs import Input, open_input
from raydsinfer.cli.job import Job
from raydsinfer.cli.outputs import check_free
from raydsinfer.cli.plan_report import Line, grid, placed_lines, print_plan
from raydsinfer.cli.planning import planned
from raydsinfer.cli.rejects import check_rejects_free
from raydsinfer.groups.placement import gang_request, read_nodes
from raydsinfer.planning.placing import place_gangs
from raydsinfer.planning.wanted import Wanted
from raydsinfer.rows.limits import changes_for


def dry_run(job: Job, console: Console) -> bool:
    """Print what a job would do; nothing is loaded, reserved or written.

    Args:
        job: What would be done.
        console: Where to print.

    Returns:
        Whether every gang could start now.

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
        before = list(_job_lines(job, rows, job.kept_columns(rows)))
    if spec.config.engine == "echo":
        return _rehearsal(job, before, console)
    wanted = Wanted(
        model=spec.model,
        config=spec.config.replaced(changes_for(spec.config, job.generation)),
        num_ranks=shape.num_ranks,
        use_gpu=shape.use_gpu,
        num_gangs=shape.num_gangs,
        placement_strategy=shape.placement_strategy,
        accelerator_type=shape.accelerator_type,
    )
    plan = planned(wanted, address=job.address, num_cpus=shape.num_cpus, debug=job.debug)
    print_plan(plan, console, before=before, commands=False)
    return not plan.problems


def _rehearsal(job: Job, before: list[Line], console: Console) -> bool:
    """The echo engine has no model: what is left is where its gangs would go."""
    with cluster(job.address, num_cpus=job.shape.num_cpus, debug=job.debug):
        nodes = read_nodes()
    placed = place_gangs(gang_request("gang", job.shape.scaling_config()), job.shape.num_gangs, nodes)
    names = {node.node_id: node.address for node in nodes}
    lines = [
        *before,
        ("model", f"{escape(without_secrets(job.model))}: the echo engine has none"),
        *placed_lines(placed, names),
        ("nodes", escape("\n".join(map(str, nodes)))),
    ]
    homeless = any(gang.problem for gang in placed)
    console.print(grid([*lines, *([("problem", "not every gang has a place")] if homeless else [])]))
    return not homeless


def _job_lines(job: Job, rows: Input, keep: list[str]) -> Iterator[Line]:
    files = f"{len(rows.files)} {rows.format} file{'s' if len(rows.files) > 1 else ''}"
    yield "input", escape(f"{job.input}: {rows.num_rows:,} rows in {files}")
    yield "output", escape(f"{job.output} ({job.output_format}), keeping {', '.join(keep) or 'no columns'}")
    if job.kept is not None:
        yield "kept in", escape(job.kept.shown)
    if job.rejects is not None:
        yield "rejects", escape(f"{job.rejects.path} ({job.rejects.format})")
    yield "gangs", f"{job.shape}, {job.batch_size} rows a batch"
