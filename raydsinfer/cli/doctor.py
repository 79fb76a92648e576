"""`raydsinfer doctor`: the machine alone, green or red, with the cure."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raydsinfer.cli.failures import ExitCode, reported_failures

if TYPE_CHECKING:
    from raydsinfer.doctor.verdicts import Verdict

EXIT_CODES = "Exit codes: 0 green or yellow; 1 red; 130 interrupted."
_WIDTH = 140  # characters, where no person looks


def doctor(
    online: Annotated[bool, typer.Option("--online", help="Try the Hugging Face hub, too.")] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="Time limit of each probe; some run one after the other.")
    ] = 120,
    json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout instead of the table.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks, and what failed probes wrote.")] = False,
) -> None:
    """Look at this machine: packages, driver, GPUs, NCCL, compilers, DeepSpeed's ops, limits, disks, Ray.

    Green is fine, yellow works, but not all of it or not as fast, red does not work; the cure stands below.

    It starts a Ray of its own for a moment, and joins none that runs. No process is left behind.
    """
    console = Console(stderr=True)
    with reported_failures(console, debug=debug):
        from raydsinfer.doctor.examination import examine
        from raydsinfer.doctor.judges.machine import judge
        from raydsinfer.doctor.verdicts import as_json, worst

        with console.status("looking") as status:
            machine = examine(
                online=online, timeout_s=timeout, on_stage=lambda stage: status.update(f"looking at {stage}")
            )
        verdicts = judge(machine)
        if debug:
            _print_outputs(machine, console)
        if json:
            typer.echo(json_module.dumps(as_json(verdicts), indent=2))
        else:
            out = Console()
            (out if out.is_terminal else Console(file=out.file, width=_WIDTH)).print(verdicts_table(verdicts))
    raise typer.Exit(ExitCode.FAILURE if worst(verdicts) == "red" else ExitCode.OK)


def verdicts_table(verdicts: Sequence[Verdict]) -> Table:
    """A row a verdict, the cure below what was found."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for verdict in verdicts:
        cure = f"\n[bold]→ {escape(verdict.cure)}[/bold]" if verdict.cure else ""
        mark = f"[{verdict.level}]{verdict.level}[/{verdict.level}]"
        table.add_row(mark, verdict.subject, escape(verdict.found) + cure)
    return table


def _print_outputs(machine: object, console: Console) -> None:
    from raydsinfer.doctor.findings.failed import ProbeFailed

    for name, found in vars(machine).items():
        if isinstance(found, ProbeFailed) and found.output:
            console.print(f"{name}:\n{found.output}", markup=False, highlight=False, soft_wrap=True)
