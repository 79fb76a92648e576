"""`raydsinfer bench scheduler`: what planning a step costs the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from raydsinfer.cli.failures import reported_failures

if TYPE_CHECKING:
    from raydsinfer.bench.scheduler_cost import SchedulerCost


def scheduler(
    steps: Annotated[int, typer.Option(min=1, help="Steps to measure for each row.")] = 1000,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Measure what the scheduler of continuous batching costs a step, without a model or a GPU."""
    with reported_failures(Console(stderr=True), debug=debug):
        from raydsinfer.bench.scheduler_cost import scheduler_costs

        console = Console(width=None if Console().is_terminal else 100)
        titles = {False: "KV cache with room for all", True: "KV cache full before the slots are"}
        for memory_bound, title in titles.items():
            costs = scheduler_costs(num_steps=steps, memory_bound=memory_bound)
            console.print(scheduler_table(f"Scheduler, {title}; microseconds a step", costs))


def scheduler_table(title: str, costs: Sequence[SchedulerCost]) -> Table:
    """A row for each number of running and waiting sequences.

    Args:
        title: What was measured.
        costs: The rows.
    """
    table = Table(title=title, box=box.SIMPLE_HEAD)
    for heading in ("running", "waiting", "median", "mean", "99th percentile", "slowest", "started"):
        table.add_column(heading, justify="right")
    for cost in costs:
        times = (cost.median_us, cost.mean_us, cost.p99_us, cost.max_us)
        table.add_row(
            str(cost.num_running), f"{cost.num_waiting:,}", *(f"{time:,.0f}" for time in times), str(cost.num_started)
        )
    return table
