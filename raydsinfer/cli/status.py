"""`raydsinfer status`: how far a run is, from what it keeps; without Ray."""

from __future__ import annotations

import json as json_module
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from raydsinfer.cli.failures import reported_failures
from raydsinfer.cli.progress import duration

if TYPE_CHECKING:
    from raydsinfer.runs.status import RunStatus

EXIT_CODES = "Exit codes: 0 all is well; 1 it cannot be read; 130 interrupted."


def status(
    run_dir: Annotated[
        str, typer.Argument(metavar="RUN_DIR", help="What --run-dir named, or OUTPUT.run; a directory or a URL.")
    ],
    json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout instead of the table.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """How far a run is: rows done, failed and left, tokens, seconds, restarts.

    It says so for the settings of the job that started last, while it runs or after it ended.
    """
    with reported_failures(Console(stderr=True), debug=debug):
        from raydsinfer.cli.summary import print_lines
        from raydsinfer.runs.store import RunStore

        store = RunStore(run_dir)
        found = store.status()
        if json:
            typer.echo(json_module.dumps(asdict(found), indent=2))
        else:
            print_lines([("run", store.shown), *status_lines(found)], Console())


def status_lines(found: RunStatus, now: float | None = None) -> list[tuple[str, str]]:
    """Names and values in the order of reading.

    Args:
        found: Of the run.
        now: Seconds since the epoch; None: by the clock.
    """
    now = time.time() if now is None else now
    left = "unknown: nobody said how many rows there are" if found.num_left is None else f"{found.num_left:,}"
    last = "never" if found.last_at is None else f"{duration(max(0.0, now - found.last_at))} ago"
    return [
        ("state", _state(found)),
        ("rows done", f"{found.num_done:,}"),
        ("rows failed", f"{found.num_failed:,}"),
        ("rows left", left),
        ("prompt tokens", f"{found.num_prompt_tokens:,}"),
        ("new tokens", f"{found.num_output_tokens:,}"),
        ("time of all gangs", duration(found.num_seconds)),
        ("restarts", f"{found.num_restarts:,}"),
        ("starts", f"{found.num_starts:,}"),
        ("last row stored", last),
        ("stored", f"{found.num_bytes / 2**20:,.1f} MiB"),
        *([("rows of other settings", f"{found.num_other_rows:,}")] if found.num_other_rows else []),
    ]


def _state(found: RunStatus) -> str:
    if found.finished:
        return "finished"
    # A program that calls predict() leaves no word of its end; and rows that were stored twice count twice until then.
    return "all rows are stored, its end was not noted" if found.num_left == 0 else "not finished"
