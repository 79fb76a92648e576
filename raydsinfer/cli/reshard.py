"""`raydsinfer reshard`: a model's weights in another form."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from raydsinfer.checkpoints.sizes import size_in_words
from raydsinfer.cli.failures import reported_failures
from raydsinfer.cli.progress import LINE_EVERY_S, duration

if TYPE_CHECKING:
    from raydsinfer.checkpoints.resharding.reshard import ReshardReport

EXIT_CODES = "Exit codes: 0 all is well; 1 failure; 2 wrong usage or settings; 130 interrupted."


def reshard(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="Model: a directory, a URL, or a name on the Hugging Face hub.")
    ],
    target: Annotated[str, typer.Argument(metavar="DST", help="Directory to make.")],
    layout: Annotated[
        str,
        typer.Option(
            help="'layers': each decoder layer whole in one file, as every tool reads them. 'ranks': each rank's own "
            "part, for gangs of --tp ranks. 'deepspeed': the same in the form of DeepSpeed's kernels, for kernel "
            "injection and for DeepSpeed's own loader."
        ),
    ] = "layers",
    tp: Annotated[int | None, typer.Option("--tp", help="Number of ranks, with --layout ranks or deepspeed.")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Convert floating weights: float16, bfloat16, float32. \\[default: as they are]", show_default=False
        ),
    ] = None,
    max_shard_size: Annotated[
        str, typer.Option(help="Largest file. One tensor may be larger, with 'layers' a layer may not.")
    ] = "5GB",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    hf_home: Annotated[
        str | None, typer.Option(help="Directory for fetched models. \\[default: the hub's own]", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older reshard at DST.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Whether Python code in SRC may run, with --tp.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON on standard output.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Write a model's weights in another form into a directory.

    The weights are streamed: host memory holds a few blocks of them, whatever the model's size. DST
    appears when it is whole and read back; an interrupted run goes on where it was.
    """
    console = Console(stderr=True)
    kept = f"interrupted; finished files are kept in {target.rstrip('/')}.partial: the same command goes on there"
    with reported_failures(console, debug=debug, interrupted=kept):
        from raydsinfer.resharding import reshard as run

        with _Display(console) as display:
            report = run(
                source,
                target,
                layout=layout,  # type: ignore[arg-type]
                tp_size=tp,
                dtype=dtype,  # type: ignore[arg-type]
                max_shard_size=max_shard_size,
                revision=revision,
                hf_home=hf_home,
                overwrite=overwrite,
                trust_remote_code=trust_remote_code,
                on_progress=display.show,
            )
        if as_json:
            typer.echo(json.dumps({**asdict(report), "target": str(report.target)}))
        else:
            _print_summary(console, report)


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


class _Display:
    """A bar that moves on a terminal, a line now and then elsewhere; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console, self._next_s = console, time.monotonic() + LINE_EVERY_S
        columns = (TextColumn("weights"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("weights", total=None)
        self._done = 0

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, done: int, total: int) -> None:
        """So many bytes are done; fewer than before where writing follows fetching."""
        if done < self._done:
            self._progress.reset(self._task, total=total)
        self._done = done
        self._progress.update(self._task, completed=done, total=total)
        if not self._console.is_terminal and time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + LINE_EVERY_S
            _say(self._console, f"{size_in_words(done)} of {size_in_words(total)}")


def _print_summary(console: Console, report: ReshardReport) -> None:
    """Print a small table."""
    made = "it was there already; nothing was written" if report.already_there else duration(report.seconds)
    lines = [
        ("target", str(report.target)),
        ("layout", f"{report.layout}, for {report.tp_size}" if report.tp_size else report.layout),
        ("tensors", f"{report.num_tensors:,}"),
        ("files", f"{report.num_files:,}" + (f" ({report.num_resumed:,} kept)" if report.num_resumed else "")),
        ("bytes", f"{report.num_bytes:,} ({size_in_words(report.num_bytes)})"),
        ("time", made),
    ]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in lines:
        table.add_row(name, value)
    console.print(table)
