"""Draws throughput against batch, and where the time goes. Needs matplotlib: `raydsinfer[bench]`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from raydsinfer.bench.throughput.figures import PHASES, Figures
from raydsinfer.errors import InvalidSettingError, OutputError, UnsupportedError, summary_of

SUFFIXES = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, which people with any colour vision can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
# Other colours than the engines'. Waiting is pale: then the device works, which is what it is for.
_PHASE_COLOURS = {
    "schedule": "#5C3C92",
    "prepare": "#A4478F",
    "launch": "#D9576B",
    "wait": "#CFDDE6",
    "commit": "#E8963A",
}
_OTHER = "#EEEEEE"


@dataclass(frozen=True, kw_only=True)
class PlotData:
    """What is drawn.

    Args:
        title: What was measured, and on what.
        figures: Of all engines and workloads.
        curve: Batch and new tokens per second of the roofline, for uniform batches.
    """

    title: str
    figures: Sequence[Figures]
    curve: Sequence[tuple[int, float]] = ()


def require_plot(path: Path) -> None:
    """Whether a plot can be drawn there, asked before anything is measured.

    Raises:
        InvalidSettingError: The name has a suffix that is no picture's.
        UnsupportedError: matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidSettingError(name="--plot", value=str(path), expected=f"a name that ends in {', '.join(SUFFIXES)}")
    if find_spec("matplotlib") is None:
        raise UnsupportedError(
            what="--plot",
            why="the package matplotlib is not installed",
            instead="Run: pip install 'raydsinfer[bench]', or plot the file of --json yourself.",
        )


def draw(data: PlotData, path: Path) -> None:
    """Write the plot.

    Raises:
        InvalidSettingError: The name has a suffix that is no picture's.
        UnsupportedError: matplotlib is not installed.
        OutputError: The file cannot be written.
    """
    require_plot(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [figures for figures in data.figures if figures.seconds]
    others = list(dict.fromkeys(figures.workload for figures in shown if not figures.batch))
    phased = [figures for figures in shown if figures.phases_s]
    looks = _looks(data.figures)
    panels: list[tuple[float, Callable[[Any], None]]] = []
    if any(figures.batch for figures in shown):
        panels.append((5.0, lambda axis: _against_batch(axis, shown, data.curve, looks)))
    if others or not panels:
        panels.append((1.6 + 0.9 * len(others), lambda axis: _beside(axis, shown, others, looks)))
    if phased:
        panels.append((5.0, lambda axis: _phases(axis, phased)))
    widths = [width for width, _ in panels]
    page = Figure(figsize=(1.5 + sum(widths), 4.8), layout="constrained")
    FigureCanvasAgg(page)
    axes = page.subplots(1, len(panels), width_ratios=widths, squeeze=False)[0]
    for (_, fill), axis in zip(panels, axes, strict=True):
        fill(axis)
    page.suptitle(data.title, fontsize=10)
    try:
        page.savefig(path, dpi=150)
    except OSError as error:
        raise OutputError(path=str(path), reason=summary_of(error)) from error


def _looks(figures: Sequence[Figures]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each engine."""
    engines = list(dict.fromkeys(row.engine for row in figures))
    return {engine: (_COLOURS[at % len(_COLOURS)], _MARKERS[at % len(_MARKERS)]) for at, engine in enumerate(engines)}


def _against_batch(axis: Any, shown: Sequence[Figures], curve: Any, looks: dict[str, tuple[str, str]]) -> None:
    if curve:
        batches, rates = zip(*curve, strict=True)
        axis.plot(batches, rates, color="black", linestyle="--", linewidth=1, label="roofline")
    ticks = sorted({figures.batch for figures in shown if figures.batch})
    for engine, (colour, marker) in looks.items():
        points = sorted((f.batch, f.new_tokens_per_s) for f in shown if f.engine == engine and f.batch)
        if points:
            batches, rates = zip(*points, strict=True)
            axis.plot(batches, rates, color=colour, marker=marker, label=engine)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    _plain_decades(axis)
    axis.set_xlabel("requests of 128 prompt and 64 new tokens, given at once")
    axis.set_ylabel("new tokens per second")
    axis.set_title("Throughput against batch", fontsize=10)
    axis.legend(frameon=False, fontsize=9)


def _plain_decades(axis: Any) -> None:
    """Marks at 1, 2 and 5 of each decade, written out."""
    low, high = axis.get_ylim()
    marks = [digit * 10**power for power in range(-3, 8) for digit in (1, 2, 5)]
    inside = [mark for mark in marks if low <= mark <= high]
    axis.set_yticks(inside, [f"{mark:,g}" for mark in inside])
    axis.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _beside(axis: Any, shown: Sequence[Figures], others: list[str], looks: dict[str, tuple[str, str]]) -> None:
    """Bars for workloads that have no batch, with the roofline as a line across each group."""
    from matplotlib.patches import Patch

    width = 0.8 / len(looks)
    for number, (engine, (colour, _)) in enumerate(looks.items()):
        for f in shown:
            if f.engine == engine and f.workload in others:
                x = others.index(f.workload) + (number - (len(looks) - 1) / 2) * width
                axis.bar(x, f.new_tokens_per_s, width * 0.92, color=colour)
                axis.annotate(
                    f"{f.new_tokens_per_s:,.0f}", (x, f.new_tokens_per_s), ha="center", va="bottom", fontsize=7
                )
    for at, workload in enumerate(others):
        best = [f.new_tokens / f.floor.seconds for f in shown if f.workload == workload and f.floor]
        if best:
            axis.hlines(max(best), at - 0.45, at + 0.45, color="black", linestyle="--", linewidth=1)
    axis.set_xticks(range(len(others)), [name.replace(" ", "\n") for name in others])
    axis.set_ylim(bottom=0)
    axis.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title("New tokens per second", fontsize=10)
    if not any(figures.batch for figures in shown):  # else the engines are named beside the lines
        names = [Patch(color=colour, label=engine) for engine, (colour, _) in looks.items()]
        axis.legend(handles=names, frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12))


def _phases(axis: Any, phased: Sequence[Figures]) -> None:
    """A bar a workload: milliseconds of a step by phase, as shares of the whole."""
    several = len({f.engine for f in phased}) > 1
    names = [f"{f.workload}\n{f.engine}" if several else f.workload for f in phased]
    counted = [phase for phase in PHASES if any(phase in f.phases_s for f in phased)]
    for row, f in enumerate(phased):
        left = 0.0
        shares = [(phase, f.phases_s.get(phase, 0.0) / f.seconds) for phase in counted]
        parts = [*shares, ("other", max(0.0, 1 - sum(share for _, share in shares)))]
        for phase, share in parts:
            colour = _PHASE_COLOURS.get(phase, _OTHER)
            axis.barh(row, share, left=left, height=0.6, color=colour, label=phase if row == 0 else None)
            if share > 0.06:
                ink = "black" if phase in ("wait", "other") else "white"
                axis.text(left + share / 2, row, f"{share:.0%}", ha="center", va="center", fontsize=8, color=ink)
            left += share
        axis.text(1.02, row, f"{f.step_ms:.1f} ms", va="center", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(max(len(phased), 3) - 0.5, -0.5)  # the first on top, and few bars no thicker than many
    axis.set_xlim(0, 1)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(f"Where a step's time goes: {phased[0].engine}" if not several else "Where a step's time goes")
    axis.title.set_fontsize(10)
    axis.legend(frameon=False, fontsize=8, ncols=6, loc="upper center", bbox_to_anchor=(0.5, -0.07), columnspacing=1)
