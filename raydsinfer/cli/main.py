"""The command `raydsinfer`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from raydsinfer import __version__
from raydsinfer.cli.ancestor import modern_arguments
from raydsinfer.cli.bench import bench_app
from raydsinfer.cli.failures import ExitCode, reported_failures
from raydsinfer.cli.node_commands import EXIT_CODES as NODE_EXIT_CODES
from raydsinfer.cli.node_commands import fetch, nodes_app
from raydsinfer.cli.options import with_flags
from raydsinfer.cli.reshard import EXIT_CODES as RESHARD_EXIT_CODES
from raydsinfer.cli.reshard import reshard
from raydsinfer.config import EngineConfig, GangConfig, GenerationConfig

app = typer.Typer(
    name="raydsinfer",
    help="Run large language models over data sets: DeepSpeed shards the model, Ray Data streams the rows.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

_EXIT_CODES = (
    "Exit codes: 0 all is well; 1 failure; 2 wrong usage, settings or input; 3 done, with error rows; 130 interrupted."
)
_HIDDEN = frozenset({"replace_method", "echo_fault", "echo_delay_s"})


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


@app.command(epilog=_EXIT_CODES)
@with_flags(
    {"generation": GenerationConfig, "engine": EngineConfig, "gang": GangConfig},
    hidden=_HIDDEN,
)
def generate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model: a directory, a URL, or a name on the Hugging Face hub.")
    ],
    input: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Prompts: a .parquet, .jsonl, .csv or .txt file, or a directory, glob or URL of them; "
            "'-' reads stdin, a prompt a line.",
        ),
    ],
    output: Annotated[
        str,
        typer.Argument(
            metavar="OUTPUT",
            help="Completions: one file by suffix; without a suffix a directory of part files; "
            "'-' writes JSON lines to stdout.",
        ),
    ],
    num_worker_groups: Annotated[
        int, typer.Option(help="Gangs that work side by side, each with the whole model.")
    ] = 1,
    max_worker_groups: Annotated[
        int | None, typer.Option(help="Let the number of gangs grow up to this, while GPUs are free.")
    ] = None,
    num_gpus_per_worker_group: Annotated[
        int | None,
        typer.Option(
            help="GPUs that share the model in each gang: the tensor parallel size. \\[default: 1]", show_default=False
        ),
    ] = None,
    num_cpu_ranks_per_worker_group: Annotated[
        int | None,
        typer.Option(
            "--num-cpu-ranks-per-worker-group",
            "--cpu-ranks",
            help="Run on this many CPU processes a gang instead of GPUs.",
        ),
    ] = None,
    placement_strategy: Annotated[
        str, typer.Option(help="Ray's placement of a gang: PACK, SPREAD, STRICT_PACK, STRICT_SPREAD.")
    ] = "PACK",
    accelerator_type: Annotated[str | None, typer.Option(help="Ray's name of the GPU, for example H100.")] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster. 'local' starts one; by default RAY_ADDRESS, then one that runs here, then a new one."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Rows that a gang gets at a time.")] = 64,
    prompt_column: Annotated[str, typer.Option(help="Column of texts.")] = "prompt",
    messages_column: Annotated[str, typer.Option(help="Column of conversations; goes before the prompt.")] = "messages",
    generation_column: Annotated[str, typer.Option(help="Column of rows' own generation settings.")] = "generation",
    keep_columns: Annotated[
        str | None,
        typer.Option(
            help="Input columns that the output has too, by comma; '' for none. \\[default: all]", show_default=False
        ),
    ] = None,
    format: Annotated[str | None, typer.Option(help="Of the output: parquet, jsonl, csv, txt.")] = None,
    input_format: Annotated[str | None, typer.Option(help="Of the input: parquet, jsonl, csv, txt.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; load and write nothing.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and the workers' logs.")] = False,
    *,
    generation: dict[str, Any],
    engine: dict[str, Any],
    gang: dict[str, Any],
) -> None:
    """Complete every prompt of a data set: a row for a row, in order.

    The output has the input's columns and output, finish_reason, num_prompt_tokens,
    num_output_tokens and error. Rows that cannot be answered have error set; the others are right.
    """
    console = Console(stderr=True)
    with reported_failures(console, debug=debug):
        from raydsinfer.cli.job import gang_shape, make_job
        from raydsinfer.rows.columns import InputColumns

        shape = gang_shape(
            num_worker_groups=num_worker_groups,
            max_worker_groups=max_worker_groups,
            num_gpus=num_gpus_per_worker_group,
            num_cpu_ranks=num_cpu_ranks_per_worker_group,
            placement_strategy=placement_strategy,
            accelerator_type=accelerator_type,
        )
        job = make_job(
            model=model,
            input=input,
            output=output,
            format=format,
            input_format=input_format,
            columns=InputColumns(prompt=prompt_column, messages=messages_column, generation=generation_column),
            keep_columns=keep_columns,
            engine=engine,
            generation=generation,
            gang=gang,
            shape=shape,
            batch_size=batch_size,
            address=address,
            overwrite=overwrite,
            debug=debug,
        )
        if dry_run:
            from raydsinfer.cli.dry_run import dry_run as print_plan

            code = ExitCode.OK if print_plan(job, Console()) else ExitCode.FAILURE
        else:
            from raydsinfer.cli.generate import generate as run

            summary = run(job, console)
            summary.print(console)
            code = ExitCode.ERROR_ROWS if summary.tally.num_errors else ExitCode.OK
    raise typer.Exit(code)


@app.command(epilog=_EXIT_CODES)
def demo(
    output_dir: Annotated[str, typer.Option(help="Where the Parquet and JSON lines files go.")] = "demo-output",
    num_ranks: Annotated[int, typer.Option(help="CPU processes that share the model.")] = 2,
    model: Annotated[
        str | None, typer.Option(help="Another model. \\[default: SmolLM2-135M-Instruct]", show_default=False)
    ] = None,
    engine: Annotated[str, typer.Option(help="'echo' rehearses without a model.")] = "deepspeed",
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and the workers' logs.")] = False,
) -> None:
    """See it work on this machine: a small model on two CPU ranks, some sixty prompts, a few minutes."""
    console = Console(stderr=True)
    with reported_failures(console, debug=debug):
        from raydsinfer.cli.demo import run_demo

        tally = run_demo(output_dir, num_ranks=num_ranks, model=model, engine=engine, debug=debug, console=console)
    raise typer.Exit(ExitCode.ERROR_ROWS if tally.num_errors else ExitCode.OK)


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
