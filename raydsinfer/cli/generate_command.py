"""The flags of `raydsinfer generate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from raydsinfer.cli.failures import ExitCode, reported_failures
from raydsinfer.cli.flags import AcceleratorType, Address, CpuRanks, Debug, GpuRanks, ModelName, PlacementStrategy
from raydsinfer.cli.options import with_flags
from raydsinfer.config import EngineConfig, GangConfig, GenerationConfig, RecoveryConfig

if TYPE_CHECKING:
    from raydsinfer.cli.kept import KeptRun

EXIT_CODES = (
    "Exit codes: 0 all is well; 1 failure; 2 wrong usage, settings or input; 3 done, with error rows; "
    "4 ended by --on-error raise or --max-error-rate; 130 interrupted; 143 terminated."
)
_HIDDEN = frozenset({"replace_method", "echo_fault", "echo_delay_s"})


@with_flags(
    {"generation": GenerationConfig, "engine": EngineConfig, "gang": GangConfig, "recovery": RecoveryConfig},
    hidden=_HIDDEN,
)
def generate(
    model: ModelName,
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
    num_gpus_per_worker_group: GpuRanks = None,
    num_cpu_ranks_per_worker_group: CpuRanks = None,
    placement_strategy: PlacementStrategy = "PACK",
    accelerator_type: AcceleratorType = None,
    address: Address = None,
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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output, and rejects, that exist.")] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Keep rows that are done in OUTPUT.run, and go on from what is there: after a kill, run it again.",
        ),
    ] = False,
    run_dir: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Keep rows that are done in this directory or URL, which must be new unless --resume is said.",
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Compute kept rows again that came back with an error.")
    ] = False,
    duplicates: Annotated[
        str, typer.Option(metavar="once|each", help="With --resume: compute equal rows of a batch once, or each.")
    ] = "once",
    rejects: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Write error rows to a .jsonl, .csv or .parquet file, too: the whole input row, error class, "
            "message, attempts.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; load and write nothing.")] = False,
    debug: Debug = False,
    *,
    generation: dict[str, Any],
    engine: dict[str, Any],
    gang: dict[str, Any],
    recovery: dict[str, Any],
) -> None:
    """Complete every prompt of a data set: a row for a row, in order.

    The output has the input's columns and output, finish_reason, num_prompt_tokens,
    num_output_tokens and error. Rows that cannot be answered have error set; the others are right.
    """
    console = Console(stderr=True)
    going_on = _GoingOn()
    with reported_failures(console, debug=debug, afterwards=going_on):
        from raydsinfer.cli.job import make_job
        from raydsinfer.cli.kept import kept_run
        from raydsinfer.cli.rejects import rejects_file
        from raydsinfer.cli.shape import gang_shape
        from raydsinfer.rows.columns import InputColumns

        shape = gang_shape(
            num_worker_groups=num_worker_groups,
            max_worker_groups=max_worker_groups,
            num_gpus=num_gpus_per_worker_group,
            num_cpu_ranks=num_cpu_ranks_per_worker_group,
            placement_strategy=placement_strategy,
            accelerator_type=accelerator_type,
        )
        kept = kept_run(output, resume=resume, run_dir=run_dir, retry_failed=retry_failed, duplicates=duplicates)
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
            recovery=recovery,
            shape=shape,
            batch_size=batch_size,
            address=address,
            overwrite=overwrite,
            debug=debug,
            kept=kept,
            rejects=rejects_file(rejects),
        )
        if dry_run:
            from raydsinfer.cli.dry_run import dry_run as print_plan

            code = ExitCode.OK if print_plan(job, Console()) else ExitCode.FAILURE
        else:
            from raydsinfer.cli.generate import generate as run

            going_on.kept = kept
            summary = run(job, console)
            summary.print(console)
            code = ExitCode.ERROR_ROWS if summary.tally.num_errors else ExitCode.OK
    raise typer.Exit(code)


class _GoingOn:
    """What there is to say when the command ends early."""

    kept: KeptRun | None = None

    def __call__(self) -> str:
        return self.kept.how_to_go_on() if self.kept is not None else ""
