"""Where the results of `raydsinfer bench throughput` go."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from raydsinfer.bench.hardware import hardware
from raydsinfer.bench.throughput.figures import Figures, all_figures, best_rates, roofline_curve
from raydsinfer.bench.throughput.plot import PlotData, draw
from raydsinfer.bench.throughput.results import EngineResult
from raydsinfer.bench.throughput.suite import ThroughputSuite
from raydsinfer.cli.bench_tables import (
    LEGEND,
    device_line,
    engines_table,
    phases_table,
    problem_lines,
    throughput_table,
)
from raydsinfer.errors import OutputError, summary_of


@dataclass(frozen=True, kw_only=True)
class ThroughputReport:
    """Measures, and brings the results where they belong: JSON while it goes on, tables and a plot at the end.

    Args:
        suite: What is measured.
        title: What the model is called.
        max_running: Requests at once that the floor reckons with.
        json_path: File for everything.
        plot_path: File for the plot.
    """

    suite: ThroughputSuite
    title: str
    max_running: int
    json_path: Path | None
    plot_path: Path | None

    def measure(self, console: Console) -> list[EngineResult]:
        """Engine after engine; says on the console what is done now.

        Raises:
            OutputError: The JSON cannot be written.
        """
        results: list[EngineResult] = []
        for result in self.suite.run(lambda line: console.print(line, highlight=False, markup=False)):
            results.append(result)
            if self.json_path is not None:  # after each engine: a later one may take long
                _write(self.json_path, self.document(results))
        return results

    def show(self, results: Sequence[EngineResult], console: Console) -> None:
        """Print the tables, and draw the plot.

        Raises:
            OutputError: The plot cannot be written.
        """
        figures, rates = self._figures(results), best_rates(results)
        gpu = next(iter(hardware()["gpus"]), "CPU") if self.suite.device == "cuda" else "CPU"
        dtype = next(iter(self.suite.configs.values())).dtype
        title = f"{self.title}, dtype {dtype}, tp {self.suite.tp_size}, {gpu}; medians of {self.suite.rounds}"
        console.print(throughput_table(title, figures))
        for line in problem_lines(figures, results):
            console.print(line)
        if phased := [row for row in figures if row.phases_s]:
            console.print(phases_table(phased))
        console.print(engines_table(results))
        if rates is not None:
            console.print(device_line(rates), highlight=False)
        console.print(LEGEND, style="dim", highlight=False, markup=False)
        if self.plot_path is not None:
            batches = [workload.batch for workload in self.suite.workloads if workload.batch]
            loaded = next((result for result in results if result.cost), None)
            curve = roofline_curve(loaded, rates, batches, self.max_running) if loaded and rates else []
            draw(PlotData(title=title, figures=figures, curve=curve), self.plot_path)

    def _figures(self, results: Sequence[EngineResult]) -> list[Figures]:
        return all_figures(results, self.suite.workloads, self.max_running)

    def document(self, results: Sequence[EngineResult]) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {
            "command": shlex.join(sys.argv),
            "model": self.title,
            "tp": self.suite.tp_size,
            "device": self.suite.device,
            "rounds": self.suite.rounds,
            "max_running": self.max_running,
            "hardware": hardware(),
            "settings": {label: config.model_dump() for label, config in self.suite.configs.items()},
            "workloads": [
                {
                    "name": workload.name,
                    "requests": len(workload.requests),
                    "prompt_tokens": workload.num_prompt_tokens,
                    "new_tokens": workload.num_new_tokens,
                    "longest": workload.longest,
                    "shared": workload.num_shared,
                }
                for workload in self.suite.workloads
            ],
            "figures": [dataclasses.asdict(figures) for figures in self._figures(results)],
            "engines": [_plain(result) for result in results],
        }


def _plain(result: EngineResult) -> dict[str, Any]:
    """Without the digests of each row, which the figures have made use of."""
    plain = dataclasses.asdict(result)
    for workload in plain["workloads"]:
        for run in workload["rounds"]:
            del run["row_digests"]
    return plain


def _write(path: Path, document: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(document, indent=1))
    except OSError as error:
        raise OutputError(path=str(path), reason=summary_of(error)) from error
