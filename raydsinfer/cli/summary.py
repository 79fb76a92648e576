"""What there is to say at the end."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

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
    """

    output: str
    tally: Tally
    start_up_s: float
    generation_s: float

    def lines(self) -> list[tuple[str, str]]:
        """Names and values in the order of reading."""
        tally = self.tally
        kinds = ", ".join(f"{kind}: {count:,}" for kind, count in tally.errors.most_common())
        pace = Pace(tally.num_rows, tally, self.generation_s)
        return [
            ("output", "standard output" if self.output == "-" else self.output),
            ("rows", f"{tally.num_rows:,}"),
            ("error rows", f"{tally.num_errors:,}" + (f" ({kinds})" if kinds else "")),
            ("prompt tokens", f"{tally.num_prompt_tokens:,}"),
            ("new tokens", f"{tally.num_output_tokens:,}"),
            ("tokens per second", f"{pace.tokens_per_s:,.1f}"),
            ("start-up", duration(self.start_up_s)),
            ("generation", duration(self.generation_s)),
        ]

    def print(self, console: Console) -> None:
        """Print a small table."""
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in self.lines():
            table.add_row(name, value, style="red" if name == "error rows" and self.tally.num_errors else None)
        console.print(table)
