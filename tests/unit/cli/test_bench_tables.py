from __future__ import annotations

import io

from rich.console import Console, RenderableType

from raydsinfer.bench.roofline import Floor, Rates
from raydsinfer.bench.throughput.figures import Figures
from raydsinfer.bench.throughput.results import EngineResult
from raydsinfer.cli.bench_tables import device_line, engines_table, phases_table, problem_lines, throughput_table

FLOOR = Floor(seconds=10.0, overlapped_s=9.0, prefill_s=2.0, decode_s=8.0, num_decode_steps=400, step_s=0.02)
LARGE = Figures(
    workload="shared-prefix 256",
    engine="continuous",
    seconds=1234.5678,
    new_tokens_per_s=12345.6,
    total_tokens_per_s=234567.8,
    step_ms=1048.326,
    num_steps=12345,
    floor=FLOOR,
    roofline_share=0.812,
    waste_share=0.0312,
    busy_share=0.97,
    ratio=12.345,
    phases_s={"schedule": 123.4, "wait": 987.6},
    mean_running=243.21,
)
PROBLEM = Figures(workload="shared-prefix 256", engine="kernel-inject", problem="does not fit: 70 GiB [of memory]")


def text_of(*parts: RenderableType) -> str:
    console = Console(width=100, file=io.StringIO())
    for part in parts:
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_widest_figures_are_readable_at_100_columns() -> None:
    lines = text_of(throughput_table("t", [LARGE, PROBLEM])).splitlines()
    (row,) = (line for line in lines if "continuous" in line)
    assert row.split() == [
        "shared-prefix", "256", "continuous", "1,234.6", "12,346", "234,568", "1,048", "20.00", "81%", "3.1%",
        "97%", "12.35",
    ]  # fmt: skip
    (row,) = (line for line in lines if "kernel-inject" in line)
    assert row.split() == ["kernel-inject", *"-" * 9]


def test_each_reason_is_said_once() -> None:
    other = Figures(workload="mixed 512", engine="kernel-inject", problem=PROBLEM.problem)
    failed = EngineResult(label="static", failure="it died")
    lines = [str(line) for line in problem_lines([LARGE, PROBLEM, other], [failed])]
    assert lines == [f"kernel-inject: shared-prefix 256, mixed 512: {PROBLEM.problem}", "static: it died"]
    assert "[of memory]" in text_of(*problem_lines([PROBLEM], []))


def test_phases_and_start_up() -> None:
    lines = text_of(phases_table([LARGE])).splitlines()
    (row,) = (line for line in lines if "continuous" in line)
    assert row.split()[3:] == ["10.0%", "80%", "10%", "12345", "243.2", "-", "-"]
    engine = EngineResult(
        label="continuous", mode="autotp", batching="continuous", start_up_s=20.04, num_kv_tokens=54321
    )
    started = text_of(engines_table([engine, EngineResult(label="never", failure="x")]))
    assert "autotp, continuous" in started
    assert "54,321" in started
    assert "never" not in started
    assert device_line(Rates(bytes_per_s=3.01e12, operations_per_s=689.04e12)) == (
        "measured: 3,010 GB/s of memory, 689.0 TFLOP/s"
    )
