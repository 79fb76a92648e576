from __future__ import annotations

from typer.testing import CliRunner

from raydsinfer.bench.scheduler_cost import SchedulerCost
from raydsinfer.cli.bench_scheduler import scheduler_table
from raydsinfer.cli.main import app


def test_a_row_for_each_load() -> None:
    cost = SchedulerCost(
        num_running=256,
        num_waiting=100_000,
        num_steps=9,
        num_started=5,
        median_us=22.4,
        mean_us=25,
        p99_us=58,
        max_us=99,
    )
    cells = [list(column.cells) for column in scheduler_table("t", [cost]).columns]
    assert cells == [["256"], ["100,000"], ["22"], ["25"], ["58"], ["99"], ["5"]]


def test_wrong_numbers_are_refused() -> None:
    assert CliRunner().invoke(app, ["bench", "scheduler", "--steps", "0"]).exit_code == 2
