"""Engines by dtypes: which are possible, and why not the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Table

from raydsinfer.planning.verdicts import DTYPES, ENGINES, EngineVerdict

_WORDS = {True: "[green]yes[/green]", False: "[red]no[/red]", None: "[yellow]?[/yellow]"}


def engines_table(verdicts: Sequence[EngineVerdict]) -> Table:
    """Engines by dtypes; a number stands for the reason below."""
    numbers = _numbers(verdicts)
    table = Table(box=None, pad_edge=False)
    table.add_column("possible", no_wrap=True)
    for dtype in DTYPES:
        table.add_column(dtype, no_wrap=True)
    for engine, (name, _) in ENGINES.items():
        cells = []
        for dtype in DTYPES:
            verdict = next(v for v in verdicts if (v.engine, v.dtype) == (engine, dtype))
            number = f" {numbers[_reason(verdict)]}" if verdict.possible is not True else ""
            cells.append(f"{_WORDS[verdict.possible]}{number}")
        table.add_row(name, *cells)
    return table


def reasons(verdicts: Sequence[EngineVerdict]) -> Iterator[Table]:
    """Why not, by the numbers of the table."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for (why_not, instead), number in _numbers(verdicts).items():
        table.add_row(str(number), escape(f"{why_not}. {instead}".strip() if instead else why_not))
    if table.row_count:
        yield table


def _reason(verdict: EngineVerdict) -> tuple[str, str]:
    return verdict.why_not, verdict.instead


def _numbers(verdicts: Sequence[EngineVerdict]) -> dict[tuple[str, str], int]:
    found = dict.fromkeys(_reason(verdict) for verdict in verdicts if verdict.possible is not True)
    return {reason: number for number, reason in enumerate(found, 1)}
