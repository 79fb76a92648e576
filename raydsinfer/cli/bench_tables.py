"""Tables of `raydsinfer bench throughput`, readable at 100 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from raydsinfer.bench.roofline import Rates
from raydsinfer.bench.throughput.figures import PHASES, Figures
from raydsinfer.bench.throughput.results import EngineResult

LEGEND = (
    "ms/step: all seconds over forward passes, prompts included; floor: a decode step at the least. "
    "of floor: least seconds over seconds. waste: padding and idle rows (static), places of a step without a token "
    "(continuous). x first: new tokens per second over the first engine's. See docs/cli.md."
)


def throughput_table(title: str, figures: Sequence[Figures]) -> Table:
    """A row for each engine on each workload; what could not be measured says why.

    Args:
        title: What was measured.
        figures: Workload by workload.
    """
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("workload", no_wrap=True)
    table.add_column("engine", overflow="fold")
    headings = ["seconds", "new\ntok/s", "total\ntok/s", "ms/\nstep", "floor\nms", "of\nfloor"]
    for heading in [*headings, "waste", "GPU\nbusy", "x\nfirst"]:
        table.add_column(heading, justify="right", no_wrap=True)
    previous = ""
    for row in figures:
        if previous and row.workload != previous:
            table.add_section()
        name = row.workload if row.workload != previous else ""
        table.add_row(name, _label(row.engine), *_cells(row))
        previous = row.workload
    return table


def _cells(row: Figures) -> list[str]:
    if row.problem:
        return ["-"] * 9
    return [
        f"{row.seconds:,.{3 if row.seconds < 100 else 1}f}",
        f"{row.new_tokens_per_s:,.0f}",
        f"{row.total_tokens_per_s:,.0f}",
        f"{row.step_ms:,.{2 if row.step_ms < 100 else 0}f}",
        _number(row.floor.step_s * 1000 if row.floor else None),
        _percent(row.roofline_share),
        _percent(row.waste_share),
        _percent(row.busy_share),
        _number(row.ratio),
    ]


def _label(engine: str) -> str:
    """An engine with its own settings below it."""
    return engine.replace("+", "\n+")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def phases_table(figures: Sequence[Figures]) -> Table:
    """Where the seconds of continuous engines go, and what their steps were.

    Args:
        figures: Of those whose engine counts its phases.
    """
    table = Table(
        title="Where the time goes", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False
    )
    table.add_column("workload", no_wrap=True)
    table.add_column("engine", overflow="fold")
    phases = [phase for phase in PHASES if any(phase in row.phases_s for row in figures)]
    for heading in [*phases, "other", "steps", "mean\nrunning", "from\ngraphs", "with\nprefill"]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in figures:
        table.add_row(
            row.workload,
            _label(row.engine),
            *(_percent(row.phases_s.get(phase, 0.0) / row.seconds) for phase in phases),
            _percent(max(0.0, 1 - sum(row.phases_s.values()) / row.seconds)),
            str(row.num_steps),
            "-" if row.mean_running is None else f"{row.mean_running:.1f}",
            _percent(row.graph_share),
            _percent(row.prefill_share),
        )
    return table


def engines_table(results: Sequence[EngineResult]) -> Table:
    """How each engine started: never part of the timed seconds."""
    table = Table(
        title="Start-up, not in the figures above",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("engine", overflow="fold")
    for heading in ("mode", "rows at once", "GB a rank", "load s", "warm-up s", "KV tokens"):
        table.add_column(heading, justify="left" if heading == "mode" else "right")
    for result in results:
        if result.mode:
            table.add_row(
                _label(result.label),
                f"{result.mode}, {result.batching}",
                str(result.rows_at_once),
                f"{result.parameter_bytes / 1e9:.3f}",
                f"{result.start_up_s:.1f}",
                f"{result.warm_up_s:.1f}",
                f"{result.num_kv_tokens:,}" if result.num_kv_tokens else "-",
            )
    return table


def device_line(rates: Rates) -> str:
    """What the device was measured to do."""
    return f"measured: {rates.bytes_per_s / 1e9:,.0f} GB/s of memory, {rates.operations_per_s / 1e12:,.1f} TFLOP/s"


def problem_lines(figures: Sequence[Figures], results: Sequence[EngineResult]) -> list[Text]:
    """Why rows are empty: each reason once, with the workloads that it took."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in figures:
        if row.problem:
            reasons.setdefault((row.engine, row.problem), []).append(row.workload)
    for result in results:
        if result.failure:
            reasons.setdefault((result.label, result.failure), [])
    return [
        Text(f"{engine}{': ' if names else ''}{', '.join(names)}: {problem}", style="yellow")
        for (engine, problem), names in reasons.items()
    ]
