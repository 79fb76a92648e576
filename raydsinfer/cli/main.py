"""The command `raydsinfer`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from raydsinfer import __version__
from raydsinfer.cli.ancestor import modern_arguments
from raydsinfer.cli.bench import bench_app
from raydsinfer.cli.doctor import EXIT_CODES as DOCTOR_EXIT_CODES
from raydsinfer.cli.doctor import doctor
from raydsinfer.cli.failures import ExitCode, reported_failures
from raydsinfer.cli.flags import Debug
from raydsinfer.cli.generate_command import EXIT_CODES, generate
from raydsinfer.cli.node_commands import EXIT_CODES as NODE_EXIT_CODES
from raydsinfer.cli.node_commands import fetch, nodes_app
from raydsinfer.cli.plan import EXIT_CODES as PLAN_EXIT_CODES
from raydsinfer.cli.plan import plan
from raydsinfer.cli.reshard import EXIT_CODES as RESHARD_EXIT_CODES
from raydsinfer.cli.reshard import reshard
from raydsinfer.cli.status import EXIT_CODES as STATUS_EXIT_CODES
from raydsinfer.cli.status import status
from raydsinfer.cli.verify import EXIT_CODES as VERIFY_EXIT_CODES
from raydsinfer.cli.verify import verify

app = typer.Typer(
    name="raydsinfer",
    help="Run large language models over data sets: DeepSpeed shards the model, Ray Data streams the rows.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"raydsinfer {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


app.command(epilog=EXIT_CODES)(generate)


@app.command(epilog=EXIT_CODES)
def demo(
    output_dir: Annotated[str, typer.Option(help="Where the Parquet and JSON lines files go.")] = "demo-output",
    num_ranks: Annotated[int, typer.Option(help="CPU processes that share the model.")] = 2,
    model: Annotated[
        str | None, typer.Option(help="Another model. \\[default: SmolLM2-135M-Instruct]", show_default=False)
    ] = None,
    engine: Annotated[str, typer.Option(help="'echo' rehearses without a model.")] = "deepspeed",
    debug: Debug = False,
) -> None:
    """See it work on this machine: a small model on two CPU ranks, some sixty prompts, a few minutes."""
    console = Console(stderr=True)
    with reported_failures(console, debug=debug):
        from raydsinfer.cli.demo import run_demo

        tally = run_demo(output_dir, num_ranks=num_ranks, model=model, engine=engine, debug=debug, console=console)
    raise typer.Exit(ExitCode.ERROR_ROWS if tally.num_errors else ExitCode.OK)


app.command(epilog=PLAN_EXIT_CODES)(plan)
app.command(epilog=STATUS_EXIT_CODES)(status)
app.command(epilog=DOCTOR_EXIT_CODES)(doctor)
app.command(epilog=VERIFY_EXIT_CODES)(verify)
app.command(epilog=NODE_EXIT_CODES)(fetch)
app.add_typer(bench_app)
app.add_typer(nodes_app, name="nodes")
app.command(epilog=RESHARD_EXIT_CODES)(reshard)


def main() -> None:
    """Entry point of the console script."""
    try:
        app(args=modern_arguments(sys.argv[1:]), prog_name="raydsinfer")
    except KeyboardInterrupt:  # before a command could take care of it
        sys.exit(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    main()
