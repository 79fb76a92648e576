"""What there is to say at the end."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.cli.progress import Pace, duration
from raydsinfer.cli.results import Tally


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A finished run.

    Args:
        output: Where the rows are.
        tally: What they add up to.
        start_up_s: Seconds until the first gang was ready.
        generation_s: Seconds from there to the last row.
        num_restarts: How often a gang was started again.
        kept_in: Where the rows are kept one by one, too; empty if nowhere.
        rejects: Where the error rows are, too; empty if nowhere.
    """

    output: str
    tally: Tally
    start_up_s: float
    generation_s: float
    num_restarts: int = 0
    kept_in: str = ""
    rejects: str = ""

    def lines(self) -> list[tuple[str, str]]:
        """Names and values in the order of reading."""
        tally = self.tally
        kinds = ", ".join(f"{kind}: {count:,}" for kind, count in tally.errors.most_common())
        pace = Pace(tally.num_rows, tally, self.generation_s)
        return [
            ("output", "standard output" if self.output == "-" else without_secrets(self.output)),
            *([("kept in", self.kept_in)] if self.kept_in else []),
            ("rows", f"{tally.num_rows:,}" + (f" ({tally.num_stored:,} done before)" if self.kept_in else "")),
            ("error rows", f"{tally.num_errors:,}" + (f" ({kinds})" if kinds else "")),
            *([("rejects", self.rejects)] if self.rejects else []),
            ("prompt tokens", f"{tally.num_prompt_tokens:,}"),
            ("new tokens", f"{tally.num_output_tokens:,}"),
            ("tokens per second", f"{pace.tokens_per_s:,.1f}"),
            ("start-up", duration(self.start_up_s)),
            ("generation", duration(self.generation_s)),
            *([("restarts", f"{self.num_restarts:,}")] if self.num_restarts else []),
        ]

    def print(self, console: Console) -> None:
        """Print a small table."""
        print_lines(self.lines(), console, red=("error rows",) if self.tally.num_errors else ())


def print_lines(lines: Sequence[tuple[str, str]], console: Console, red: Collection[str] = ()) -> None:
    """Print a small table of names and values.

    Args:
        lines: Name and value of each row.
        console: Where to.
        red: Names of rows that stand out.
    """
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in lines:
        table.add_row(name, value, style="red" if name in red else None)
    console.print(table)
