"""`raydsinfer bench`: measures on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer
from rich.console import Console
from rich.table import Table

from raydsinfer.cli.bench_device import chosen_device
from raydsinfer.cli.bench_scheduler import scheduler
from raydsinfer.cli.bench_throughput import throughput
from raydsinfer.cli.failures import reported_failures
from raydsinfer.errors import InvalidSettingError

if TYPE_CHECKING:
    from raydsinfer.bench.load_suite import LoadSuite

bench_app = typer.Typer(
    name="bench", help="Measure on this machine, with random weights.", no_args_is_help=True, rich_markup_mode="rich"
)
bench_app.command()(throughput)
bench_app.command()(scheduler)


@bench_app.command()
def load(
    shape: Annotated[
        str,
        typer.Option(help="Sizes of published models, by comma: those of bench throughput."),
    ] = "opt-125m",
    tp: Annotated[
        int, typer.Option(min=1, help="Ranks that share the model; each needs a GPU unless --device cpu.")
    ] = 1,
    forms: Annotated[
        str,
        typer.Option(help="Forms of the weights, by comma: safetensors, bin, ranks, deepspeed (its own loader)."),
    ] = "safetensors,ranks,bin,deepspeed",
    kernel_inject: Annotated[bool, typer.Option(help="DeepSpeed's fused layers instead of AutoTP.")] = False,
    num_layers: Annotated[int | None, typer.Option(help="Another number of layers than the shape has.")] = None,
    same_layers: Annotated[
        bool, typer.Option(help="Write one random layer many times: a large model is there sooner.")
    ] = False,
    directory: Annotated[
        Path, typer.Option(help="Where the weights are written, and found again. Memory is fastest.")
    ] = Path("/dev/shm/raydsinfer-bench"),  # noqa: S108
    keep: Annotated[bool, typer.Option(help="Leave the weights for the next run.")] = True,
    generate_rows: Annotated[int, typer.Option(min=0, help="Also generate two batches of so many rows.")] = 0,
    cold: Annotated[bool, typer.Option(help="Drop the files from the page cache first: measures the disk.")] = False,
    device: Annotated[str, typer.Option(help="cuda or cpu. [default: cuda if there is one]", show_default=False)] = "",
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures there.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Load a model of random weights, and compare with the floor and with DeepSpeed's own loader.

    The floor is the bytes of a rank over the bandwidth from pinned host memory to its device, measured
    on all ranks at once just before.
    """
    console = Console(stderr=True)
    with reported_failures(console, debug=debug):
        from raydsinfer.bench.load_suite import Form, LoadSuite

        wanted = tuple(form.strip() for form in forms.split(","))
        for form in wanted:
            if form not in get_args(Form):
                raise InvalidSettingError(name="forms", value=form, expected=f"one of {', '.join(get_args(Form))}")
        suite = LoadSuite(
            shape="",
            num_layers=num_layers,
            tp_size=tp,
            device=chosen_device(device, tp),
            kernel_inject=kernel_inject,
            same_layers=same_layers,
            forms=cast("tuple[Form, ...]", wanted),
            directory=directory,
            generate_rows=generate_rows,
            cold=cold,
        )
        suites = [dataclasses.replace(suite, shape=name.strip()) for name in shape.split(",")]
        rows = _measure(suites, console, json_path, keep=keep)
        title = f"{'kernel injection' if kernel_inject else 'AutoTP'}, {tp} rank{'s' if tp > 1 else ''}"
        Console(width=None if Console().is_terminal else 140).print(load_table(title, rows))


def _measure(suites: Sequence[LoadSuite], console: Console, json_path: Path | None, *, keep: bool) -> list[Any]:
    from raydsinfer.bench.shapes import shape

    for suite in suites:
        shape(suite.shape)  # a wrong name is said before the first is measured
    rows = []
    for suite in suites:
        with contextlib.ExitStack() as stack:
            if not keep:
                stack.callback(suite.remove)
            for case, results in suite.run(lambda line: console.print(line, highlight=False, markup=False)):
                rows.append({"case": dataclasses.asdict(case), "ranks": [dataclasses.asdict(r) for r in results]})
                if json_path is not None:  # after each case: a later one may fail
                    json_path.write_text(json.dumps(rows, indent=1))
    return rows


def load_table(title: str, rows: list[dict[str, Any]]) -> Table:
    """The figures of the slowest rank of each case.

    Args:
        title: What was loaded.
        rows: ``case`` and ``ranks``, as written by ``--json``.
    """
    table = Table(title=title)
    columns = ["loader", "MB a rank", "fill s", "GB/s", "floor s", "x floor", "weights s", "load s", "host GiB"]
    if generated := any(rank["batch_s"] for row in rows for rank in row["ranks"]):
        columns.append("step ms")
    for column in columns:
        table.add_column(column, justify="left" if column == "loader" else "right")
    for row in rows:
        slowest = max(row["ranks"], key=lambda rank: rank["fill_s"])
        floor_s = slowest["parameter_bytes"] / slowest["host_to_device"]
        table.add_row(
            row["case"]["name"],
            f"{slowest['parameter_bytes'] / 1e6:,.1f}",
            f"{slowest['fill_s']:.4f}",
            f"{slowest['parameter_bytes'] / slowest['fill_s'] / 1e9:.2f}",
            f"{floor_s:.4f}",
            f"{slowest['fill_s'] / floor_s:.2f}",
            f"{slowest['weights_s']:.2f}",
            f"{slowest['load_s']:.2f}",
            f"{max(rank['host_bytes'] for rank in row['ranks']) / 2**30:.2f}",
            *([_step_ms(slowest)] if generated else []),
        )
    return table


def _step_ms(rank: dict[str, Any]) -> str:
    """Of the second batch, its prefill spread over its steps."""
    from raydsinfer.bench.load import NEW_TOKENS

    return f"{rank['batch_s'][-1] / NEW_TOKENS * 1000:.1f}" if rank["batch_s"] else "-"
